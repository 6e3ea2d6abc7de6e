"""Values of a validation that suit the toy records, and a validation with them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from albef.config import validate
from albef.data.record import Record
from albef.data.shards import read_index
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.image_stats import read_image_stats
from albef.validation.result import Check, Result
from albef.validation.suites import check_suites
from albef.validation.tables import tables
from tests.data import toy

FREE = {
    name: {"divergence": dict.fromkeys(("warn", "stop")), "shift": dict.fromkeys(("warn", "stop"))}
    for name in ("accepted", "evaluation")
}
VALUES: dict[str, Any] = {
    "max_short_captions": 0.0,
    "max_caption_words": 10,
    "max_caption_images": 1.0,
    "max_repeated_captions": 0.0,
    "max_other_scripts": 0.0,
    "max_duplicate_images": 0.0,
    "max_image_side": 64,
    "max_aspect_ratio": 3.0,
    "max_blank_images": 0.0,
    "max_label_share": 0.7,
    "max_boxes_unproposed": 0.0,
    "drift": FREE,
}
"""Where they are not the defaults."""


def written(folder: Path, records: Iterable[Record]) -> Path:
    toy.write(folder, records)
    return folder


def config(**values: Any) -> ValidateConfig:
    return validate(ValidateConfig, {**VALUES, **values}, where="test")


def check(folder: Path, **values: Any) -> tuple[Result, dict[str, Any]]:
    return check_dataset(folder, config(**values), read_image_stats(folder, threads=2))


def failed(result: Result) -> list[Check]:
    return [check for check in result.checks if not check.passed]


def failed_suites(folder: Path, **values: Any) -> list[Check]:
    """What of its suites a data set fails, without its profile and its drift."""
    rows = tables(read_index(folder).combine_chunks(), read_image_stats(folder, threads=2))
    return [check for check in check_suites(rows, config(**values)) if not check.passed]


def keys(check: Check) -> list[str]:
    return [row["key"] for row in check.sample]
