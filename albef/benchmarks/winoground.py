"""Winoground (Thrush et al. 2022): two images and two captions with the same words.

A case counts for the text score if both images prefer their own caption, for the image score if
both captions prefer their own image, and for the group score if it counts for both.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from albef.benchmarks.comparing import Benchmark, Case, Result, compare, lines_of
from albef.data.rejection import Rejection
from albef.ingest.sources.rows import Row, attempt, read_image
from albef.runtime.matching import Matching
from albef.runtime.model import Floats

FILE = "examples.jsonl"


def run(model: Matching, data: Path, images: Path) -> Result:
    """Score the cases of ``examples.jsonl``, whose images are PNG files."""
    return compare(model, _cases(data / FILE, images), judge)


def judge(scores: Floats) -> Mapping[str, float]:
    """Return the three scores of a case, given the similarities (2, 2) of images and captions."""
    text = scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0]
    image = scores[0, 0] > scores[1, 0] and scores[1, 1] > scores[0, 1]
    return {"text_score": text, "image_score": image, "group_score": text and image}


def _cases(path: Path, images: Path) -> Iterator[Case | Rejection]:
    for line, text in enumerate(lines_of(path), 1):
        yield attempt(Row(path, line, text), _case, images)


def _case(row: Row, images: Path) -> Case:
    values = Row(row.file, row.line, json.loads(row.values))
    names = (values.text(f"image_{i}") for i in (0, 1))
    files = tuple(read_image(images, f"{name.removesuffix('.png')}.png") for name in names)
    texts = tuple(values.text(f"caption_{i}") for i in (0, 1))
    return Case(row, str(values.get("collapsed_tag") or "other"), files, texts)


BENCHMARKS = {
    "winoground": Benchmark(
        "https://huggingface.co/datasets/facebook/winoground",
        "Getty Images' terms, for research only",
        run,
    )
}
