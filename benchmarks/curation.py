"""How many wrong captions a curation of built-in data rejects: precision and recall, as a table.

``python -m benchmarks.curation NAME`` reads the scores of the filtered dataset NAME. Only built-in
data record which of their captions are wrong.
"""

import argparse

import numpy as np
import pyarrow.parquet as pq

from albef.config import read_yaml
from albef.layout import PARAMS, layout_of

SHARES = (10, 20, 30, 35, 40)
"""Percent of the captions that are rejected, worst scores first."""


def main() -> None:
    """Print a row for each share and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="filtered dataset")
    folder = layout_of(read_yaml(PARAMS), str(PARAMS)).quarantine(parser.parse_args().name)
    table = pq.read_table(folder / "scores.parquet").to_pandas()
    kinds = sorted(set(table["noise"]) - {""})
    noisy = int((table["noise"] != "").sum())
    print(f"| score | removed share | precision | recall | of {' | of '.join(kinds)} |")
    print("|---|---|---|---|" + "---|" * len(kinds))
    for score in ("itc", "itm"):
        worst = np.argsort(-table[score].to_numpy(), kind="stable")[::-1]
        for share in SHARES:
            noise = table["noise"].to_numpy()[worst[: round(len(worst) * share / 100)]]
            found = int((noise != "").sum())
            recalls = [(noise == kind).sum() / (table["noise"] == kind).sum() for kind in kinds]
            cells = [found / len(noise), found / noisy, *recalls]
            print(f"| {score} | {share} % | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
