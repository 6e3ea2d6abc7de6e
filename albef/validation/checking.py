"""Holding a data set against its suites, and its profile against others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from albef.data.shards import describe, read_index
from albef.validation import drift, profile
from albef.validation.config import ValidateConfig
from albef.validation.image_stats import looks
from albef.validation.outcome import Result
from albef.validation.suites import checks
from albef.validation.tables import Tables, tables


def seen(folder: Path, threads: int) -> NDArray[np.float64]:
    """What the pictures of a data set look like (:func:`albef.validation.image_stats.looks`).

    Raises:
        ShardError: a part of the data set is missing or damaged.
    """
    splits = read_index(folder, columns=["split"])["split"].to_numpy(zero_copy_only=False)
    places = {name: np.flatnonzero(splits == name) for name in describe(folder)["splits"]}
    return looks(folder, places, threads)


def check_dataset(
    folder: Path,
    config: ValidateConfig,
    pictures: NDArray[np.float64],
    accepted: Mapping[str, Any] | None = None,
    evaluated: Mapping[str, Any] | None = None,
) -> tuple[Result, dict[str, Any]]:
    """Validate a data set.

    Args:
        folder: of the data set.
        config: when it is refused.
        pictures: what :func:`seen` gives.
        accepted: a profile as :func:`albef.validation.drift.read_accepted` gives it.
        evaluated: that of another data set that models are evaluated on, as
            :func:`albef.validation.drift.read_evaluated` gives it.

    Returns:
        The result, and the profile of the data set.

    Raises:
        ShardError: a part of the data set is missing or damaged.
        NotFit: an expectation cannot be computed.
    """
    described = describe(folder)
    found = tables(read_index(folder).combine_chunks(), pictures)
    rows = profile.parts(found)
    own = profile.profile(described["name"], described["digest"], rows)
    held: list[Any] = accepted["expectations"] if accepted else []
    other = (evaluated["name"], evaluated["expectations"]) if evaluated else ("", [])
    result = Result(
        dataset=described["name"],
        digest=described["digest"],
        checks=tuple(checks(found, config)),
        statistics=_statistics(described, found),
        moved=tuple(drift.moved(rows, own, held, other, config.drift)),
        accepted=accepted["digest"] if accepted else "",
    )
    return result, own


def _statistics(described: Mapping[str, Any], found: Tables) -> dict[str, Any]:
    words, records = found["captions"]["words"], found["records"]
    kinds = records["kind"].value_counts()
    return {
        "splits": described["splits"],
        "kinds": {str(name): int(count) for name, count in sorted(kinds.items())},
        "captions": len(words),
        "words of a caption": _spread(words),
        "shorter side in pixels": _spread(records["shorter_side"].dropna()),
        "longer side in pixels": _spread(records["longer_side"].dropna()),
        "different images": int(found["images"]["digest"].nunique()),
        "scripts": _shares(found["captions"]["script"]),
    }


def _spread(values: "pd.Series[Any]") -> dict[str, float]:
    if values.empty:
        return {}
    return {
        "least": float(values.min()),
        "median": float(values.median()),
        "most": float(values.max()),
    }


def _shares(values: "pd.Series[Any]") -> dict[str, float]:
    """The share of each value among those that are known, the largest first."""
    shares = values.value_counts(normalize=True)
    ordered = sorted(shares.items(), key=lambda item: (-item[1], str(item[0])))
    return {str(name): round(float(share), 6) for name, share in ordered}
