"""Validation of a dataset against its suites and reference profiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from albef.data.shards import describe, read_index
from albef.validation.config import ValidateConfig
from albef.validation.drift import NO_PROFILE, Profile, measure_drift
from albef.validation.profile import parts, profile
from albef.validation.result import Result
from albef.validation.suites import check_suites
from albef.validation.tables import Tables, tables


def check_dataset(
    folder: Path, config: ValidateConfig, stats: NDArray[np.float64], accepted: Profile = NO_PROFILE
) -> tuple[Result, dict[str, Any]]:
    """Validate a dataset and return the result and the dataset's profile.

    ``stats`` are the statistics of its images, as :func:`read_image_stats` returns them.

    Raises:
        ShardError: a part of the dataset is missing or damaged.
        ValidationFailedError: an expectation cannot be computed.
    """
    described = describe(folder)
    rows = tables(read_index(folder).combine_chunks(), stats)
    by_part = parts(rows)
    of_dataset = profile(described["name"], described["digest"], by_part)
    result = Result(
        dataset=described["name"],
        digest=described["digest"],
        checks=check_suites(rows, config),
        statistics=_statistics(described, rows),
        drift=tuple(measure_drift(by_part, of_dataset, accepted, config.drift)),
        accepted=accepted["digest"],
    )
    return result, of_dataset


def _statistics(described: Mapping[str, Any], rows: Tables) -> dict[str, Any]:
    words, records = rows["captions"]["words"], rows["records"]
    kinds = records["kind"].value_counts()
    scripts = rows["captions"]["script"].value_counts(normalize=True)
    by_share = sorted(scripts.items(), key=lambda item: (-item[1], str(item[0])))
    return {
        "splits": described["splits"],
        "kinds": {str(name): int(count) for name, count in sorted(kinds.items())},
        "captions": len(words),
        "words of a caption": _spread(words),
        "shorter side in pixels": _spread(records["shorter_side"].dropna()),
        "longer side in pixels": _spread(records["longer_side"].dropna()),
        "different images": int(rows["images"]["digest"].nunique()),
        "scripts": {str(name): round(float(share), 6) for name, share in by_share},
    }


def _spread(values: "pd.Series[Any]") -> dict[str, float]:
    spread = values.agg(["min", "median", "max"]).astype(float)
    return {} if values.empty else dict(zip(("least", "median", "most"), spread, strict=True))
