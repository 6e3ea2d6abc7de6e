"""How a view of a data set came about, on its page: the scores, and what went and stayed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart, Histogram, Line
from albef.report.pictures import Picture, SplitRecords, spread


@dataclass(frozen=True)
class Curation:
    """What a model made of the captions of a training split."""

    facts: Mapping[str, Any]
    """By which model, score and limit, in words."""
    found: Mapping[str, float] = field(default_factory=dict)
    """Precision and recalls of finding the captions that are known to be wrong, in percent."""
    charts: Sequence[Chart] = ()
    examples: Sequence[tuple[str, Sequence[tuple[str, Picture]]]] = ()
    """Some captions that went and some that stayed, by their scores, each with its score."""


def read(layout: Layout, name: str, described: Mapping[str, Any], count: int) -> Curation:
    """What became of the captions that a view was made of, with ``count`` examples of each."""
    curated, quarantine = described["curated"], layout.quarantine(name)
    summary = read_json(quarantine / "curation.json") or {}
    scored = "score" in curated
    facts = {"a view of": curated["of"], "scored by" if scored else "captions by": curated["by"]}
    facts["weights"] = curated["weights"][:12]
    facts |= {"score": curated["score"]} if scored else {}
    if not (quarantine / "scores.parquet").is_file():
        return Curation(facts)
    table = pq.read_table(quarantine / "scores.parquet")
    facts |= {"least that stayed": summary["below"]}
    return Curation(
        facts,
        summary.get("found", {}),
        list(_charts(table, curated["score"], summary.get("curve", ()))),
        list(_examples(layout.data(curated["of"]), table, curated["score"], count)),
    )


def _charts(table: pa.Table, score: str, curve: Sequence[Mapping[str, float]]) -> Iterator[Chart]:
    kinds = pc.unique(table["noise"]).to_pylist()
    for kind in sorted(kinds):
        scores = table.filter(pc.equal(table["noise"], kind))[score].to_numpy().astype(float)
        counts, edges = np.histogram(scores, 24)
        subject = (
            f"captions known as {kind}" if kind else "other captions" if kinds[1:] else "captions"
        )
        title = f"{score.upper()} of {len(scores):,} {subject}"
        shares = {score.upper(): (counts / len(scores)).tolist()}
        bins = Histogram(edges.tolist(), shares)
        yield Chart(title, f"median {np.median(scores):.3g}", (), score, histogram=bins)
    if curve:
        lines = [
            Line(name, [(point["went"], point[name]) for point in curve], colour)
            for colour, name in enumerate((n for n in curve[0] if n not in ("went", "below")), 1)
        ]
        title = "Finding captions that are known to be wrong"
        legend = tuple((line.label, line.look) for line in lines)
        yield Chart(title, "percent", legend, "percent that went", lines)


def _examples(
    base: Path, table: pa.Table, score: str, count: int
) -> Iterator[tuple[str, Sequence[tuple[str, Picture]]]]:
    if not (base / "index.parquet").is_file():
        return
    records = SplitRecords(base, "train")
    order, is_kept = np.argsort(table[score].to_numpy(), kind="stable"), table["kept"].to_numpy()
    for title, rows in (("Went", order[~is_kept[order]]), ("Stayed", order[is_kept[order]])):
        chosen = table.take(spread(rows.tolist(), count)).to_pylist()
        yield (
            title,
            [
                (f"{score} {row[score]:.3f}: {row['caption']}", picture)
                for row in chosen
                if (picture := records.picture(row["key"])) is not None
            ],
        )
    records.close()
