"""Values of a validation that suit the toy records, and a validation with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albef.config import validate
from albef.data.shards import read_index
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.image_stats import read_image_stats
from albef.validation.result import Check, Result
from albef.validation.suites import check_suites
from albef.validation.tables import tables

FREE = {
    name: {"divergence": dict.fromkeys(("warn", "stop")), "shift": dict.fromkeys(("warn", "stop"))}
    for name in ("accepted", "evaluation")
}
VALUES: dict[str, Any] = {
    "max_empty_captions": 0.0,
    "min_caption_words": 2,
    "max_short_captions": 0.0,
    "max_caption_words": 10,
    "max_caption_images": 20,
    "max_repeated_captions": 0.0,
    "scripts": ["Latin"],
    "max_other_scripts": 0.0,
    "max_duplicate_images": 0.0,
    "max_shared_images": 0.0,
    "min_image_side": 16,
    "max_image_side": 64,
    "max_aspect_ratio": 3.0,
    "min_image_spread": 2.0,
    "max_blank_images": 0.0,
    "min_image_sharpness": 10.0,
    "max_blurred_images": 1.0,
    "min_image_highlights": 80.0,
    "max_dark_images": 1.0,
    "max_image_shadows": 242.0,
    "max_light_images": 1.0,
    "min_image_entropy": 1.0,
    "max_bare_images": 1.0,
    "max_decode_failures": 0.0,
    "max_label_share": 0.7,
    "max_boxes_outside": 0.0,
    "max_boxes_unproposed": 0.0,
    "drift": FREE,
}


def config(**values: Any) -> ValidateConfig:
    return validate(ValidateConfig, {**VALUES, **values}, where="test")


def check(
    folder: Path,
    accepted: Mapping[str, Any] | None = None,
    evaluated: Mapping[str, Any] | None = None,
    **values: Any,
) -> tuple[Result, dict[str, Any]]:
    return check_dataset(
        folder, config(**values), read_image_stats(folder, threads=2), accepted, evaluated
    )


def failed(result: Result) -> list[Check]:
    return [check for check in result.checks if not check.passed]


def failed_suites(folder: Path, **values: Any) -> list[Check]:
    """What of its suites a data set fails, without its profile and its drift."""
    rows = tables(read_index(folder).combine_chunks(), read_image_stats(folder, threads=2))
    return [check for check in check_suites(rows, config(**values)) if not check.passed]


def keys(check: Check) -> list[str]:
    """Keys of the rows that a check shows."""
    return [row["key"] for row in check.sample]
