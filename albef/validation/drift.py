"""Drift of a dataset from an accepted profile, and of training data from their evaluation data.

An accepted profile is a copy of a dataset's profile (:mod:`albef.validation.profile`). It holds the
accepted distributions, and params.yaml holds the allowed distances.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from albef.config import ParamsError
from albef.validation import profile as profiles
from albef.validation.config import DriftConfig, Limits
from albef.validation.profile import EVALUATION, PARTS, QUANTILES
from albef.validation.result import DriftResult
from albef.validation.tables import TRAIN, Tables

Profile = Mapping[str, Any]
"""Profile as JSON values, as :func:`albef.validation.profile.profile` returns it."""
NO_PROFILE: Profile = {"dataset": "", "digest": "", "parts": {}}
"""Profile that constrains nothing."""
_HELD_OUT = 1e-4
"""Total weight of bins, or words, that a reference does not have.

Without it, a single image or word there would make the divergence infinite. Identical data diverge
by up to this many nats.
"""


def read_accepted(path: Path | str | None) -> Profile:
    """Read an accepted profile; without a path, the result is :data:`NO_PROFILE`.

    Raises:
        ParamsError: the file is missing or is not an accepted profile.
    """
    if path is None:
        return NO_PROFILE
    try:
        accepted = json.loads(Path(path).read_text())
        return {key: accepted[key] for key in NO_PROFILE}
    except FileNotFoundError:
        raise ParamsError(
            f"the accepted profile {path} is missing: restore it with git, run `albef data accept` "
            "again, or remove it from validate.accepted"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise ParamsError(
            f"{path} is not an accepted profile; run `albef data accept` again"
        ) from None


def measure_drift(
    rows: Mapping[str, Tables], profile: Profile, accepted: Profile, config: DriftConfig
) -> Iterator[DriftResult]:
    """Yield the distance of each distribution of a dataset from its reference.

    Each part is compared with the accepted profile, and the training split with the evaluation
    splits.

    ``rows`` are the tables of each part, from :func:`albef.validation.profile.parts`; ``profile``
    is the profile of these rows.
    """
    counts = {part: profiles.count_values(tables) for part, tables in rows.items()}
    references = [("accepted", part, accepted["parts"].get(part)) for part in PARTS]
    references.append(("evaluation", TRAIN, profile["parts"].get(EVALUATION)))
    for kind, part, reference in references:
        if reference is None or part not in rows:
            continue
        for expected in (*reference["numbers"], *reference["categories"]):
            table = expected["table"]
            if kind == "evaluation" and table == "records":
                continue  # Captions of a record depend on how rows were grouped.
            is_counted = table in profiles.NAMES
            values = counts[part][table] if is_counted else rows[part][table][expected["column"]]
            for measure, value in distances(expected, values):
                limits: Limits = getattr(getattr(config, kind), measure)
                yield DriftResult(
                    of=expected["what"],
                    part=part,
                    reference=kind,
                    measure=measure,
                    value=round(value, 6),
                    warn=limits.warn,
                    stop=limits.stop,
                    level=limits.level(round(value, 6)),
                )


def distances(
    expected: Mapping[str, Any], values: "pd.Series[Any] | Counter[str]"
) -> Iterator[tuple[str, float]]:
    """Yield each measure and the distance of numbers, or of counted words, from a distribution."""
    if not len(values):
        return
    weights = list(expected["counts"])
    if isinstance(values, Counter):
        observed = [values[name] for name in expected["values"] if name != profiles.OTHER]
        rest = values.total() - sum(observed)
        if len(observed) < len(weights) or rest:
            observed.append(rest)
        weights += [0] * (len(observed) - len(weights))
        yield "divergence", divergence(observed, weights)
        return
    yield "divergence", divergence(np.histogram(values, expected["bins"])[0], weights)
    quantiles = np.array(values.quantile(list(QUANTILES), interpolation="nearest"), float)
    reference = np.array(expected["quantiles"], float)
    # If its outer quantiles are equal, the largest move is a share of its middle one.
    extent = reference[-1] - reference[0] or abs(reference[len(reference) // 2]) or 1.0
    yield "shift", float(np.abs(quantiles - reference).max() / extent)


def divergence(observed: ArrayLike, reference: ArrayLike) -> float:
    """Return the Kullback-Leibler divergence of counts from those of a reference, in nats.

    Bins that are empty in the reference share a weight of 1e-4.
    """
    from scipy.stats import entropy

    weights = np.array(reference, float)
    empty = weights == 0
    weights *= (1 - _HELD_OUT) / weights.sum()
    weights[empty] = _HELD_OUT / max(1, empty.sum())
    return float(entropy(observed, weights))
