"""Which altered copies of evaluation images ingest finds among training images.

python -m benchmarks.copies [--images N] [--others N] [--crops N ...]
"""

import argparse
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageOps

from albef.builtin import scenes
from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig
from albef.ingest.duplicates import HELDOUT, contaminated, read_fingerprints
from albef.ingest.prepare import Prepared, Rules, encode, prepare

DISTANCE = 4
_RNG = np.random.default_rng(1)


def _crop(image: Image.Image, area: float) -> Image.Image:
    """A crop anywhere."""
    width, height = (round(side * area**0.5) for side in image.size)
    left = int(_RNG.integers(0, image.width - width + 1))
    top = int(_RNG.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _overlaid(image: Image.Image) -> Image.Image:
    """A line of text at the lower edge."""
    image = image.copy()
    place = (8, image.height - 24)
    ImageDraw.Draw(image).text(place, "www.example.org", fill=(200, 30, 30))
    return image


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed (JPEG, quality 30)": lambda image: decode(encode(image, "jpeg", 30)),
    "half as large": lambda image: image.reduce(2),
    "a text over it": _overlaid,
    "mirrored": ImageOps.mirror,
    "a crop of 70 % of its area": lambda image: _crop(image, 0.7),
    "a crop of 80 % of its area": lambda image: _crop(image, 0.8),
    "a crop of 70 %, mirrored": lambda image: ImageOps.mirror(_crop(image, 0.7)),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--others", type=int, default=1000)
    parser.add_argument("--crops", type=int, nargs="+", default=[0, 5, 7, 9])
    options = parser.parse_args()
    config = scenes.Config(
        kind="scenes",
        objects=24,
        pixels=192,
        splits={"train": options.others, "test": options.images},
    )
    records = list(scenes.records(config, 1))
    tests = [record for record in records if record.split == "test"]
    copies = {name: [_copy(record, change) for record in tests] for name, change in CHANGES.items()}
    found = {}
    for crops in options.crops:
        limits = IngestConfig(heldout=["none"], near_distance=DISTANCE, crops=crops)
        known = _heldout(tests, Rules(limits, None, heldout=True))
        rules = Rules(limits, None)
        found[crops] = {name: _found(rows, known, rules) for name, rows in copies.items()}
        others = [record for record in records if record.split == "train"]
        found[crops]["another scene"] = _found(others, known, rules)
    print(
        f"{options.images} evaluation images, scenes of 192 x 192 pixels, and "
        f"{options.others} other scenes; near_distance {DISTANCE}\n\n"
        f"| a training image is | {' | '.join(f'`crops: {n}`' for n in found)} |\n"
        f"|---|{'---|' * len(found)}"
    )
    for name in (*CHANGES, "another scene"):
        shares = (f"{100 * of[name]:.1f} %" for of in found.values())
        print(f"| {name} | {' | '.join(shares)} |")
    wrong = {n: of["another scene"] * options.others for n, of in found.items()}
    right = {n: sum(of[c] for c in CHANGES) * options.images for n, of in found.items()}
    shares = (f"{100 * right[n] / (right[n] + wrong[n]):.1f} %" for n in found)
    print(f"| precision of all | {' | '.join(shares)} |")


def _copy(record: Record, change: Callable[[Image.Image], Image.Image]) -> Record:
    file = io.BytesIO()
    change(decode(record.image)).save(file, "PNG")
    return replace(record, image=file.getvalue(), split="train")


def _rows(records: list[Record], rules: Rules) -> Iterator[Prepared]:
    for line, record in enumerate(records):
        row = prepare(line, record, rules)
        assert isinstance(row, Prepared)
        yield row


def _heldout(tests: list[Record], rules: Rules) -> pa.Table:
    rows = [
        {"dataset": "tests", "key": row.record.key, "digest": one.digest, "look": one.phash}
        for row in _rows(tests, rules)
        for one in row.fingerprints
    ]
    return pa.Table.from_pylist(rows, HELDOUT)


def _found(records: list[Record], known: pa.Table, rules: Rules) -> float:
    """The share of training images that are held to be evaluated on."""
    with tempfile.TemporaryDirectory() as folder:
        blocks = Blocks(Path(folder))
        rows = _rows(records, rules)
        while batch := list(itertools.islice(rows, 1000)):
            blocks.write(batch)
        found = contaminated(read_fingerprints(blocks), known, DISTANCE)
        return sum(1 for _ in found) / len(records)


if __name__ == "__main__":
    main()
