"""Drift of a dataset from an accepted profile, and of training data from their evaluation data.

An accepted profile is a Great Expectations suite. For each histogram it has an expectation of the
Kullback-Leibler divergence and one of the quantiles. The suite holds the accepted distributions,
and params.yaml holds the allowed distances. The measured distances are the observed values of these
expectations.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from albef.config import ParamsError
from albef.validation import profile as profiles
from albef.validation.config import DriftConfig, Limits
from albef.validation.profile import QUANTILES
from albef.validation.result import DriftResult
from albef.validation.tables import TRAIN, Tables

Item = Mapping[str, Any]
"""An expectation as Great Expectations stores it in JSON: ``type``, ``kwargs`` and ``meta``."""
DIVERGENCE, SHIFT = "divergence", "shift"
EXPECTATIONS = {
    DIVERGENCE: "expect_column_kl_divergence_to_be_less_than",
    SHIFT: "expect_column_quantile_values_to_be_between",
}
_HELD_OUT = 1e-4
"""Total weight of bins, or words, that a reference does not have.

Without it, a single image or word there would make the divergence infinite. Identical data diverge
by up to this many nats.
"""


def suite(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the expectations that a profile sets for another dataset."""
    return [
        {"type": EXPECTATIONS[measure], "kwargs": kwargs, "meta": {**meta, "part": part}}
        for part, values in profiles.parts_of(profile)
        for measure, kwargs, meta in _expected(values)
    ]


def _expected(part: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for counted in (*part["numbers"], *part["categories"]):
        key, holdout = ("bins", "internal") if "bins" in counted else ("values", "tail")
        total = sum(counted["counts"])
        weights = [count / total for count in counted["counts"]]
        meta = {"table": counted["table"], "what": counted["what"]}
        column = {"column": counted.get("column", "value")}
        divergence = {
            "partition_object": {key: counted[key], "weights": weights},
            "threshold": {"$PARAMETER": "divergence"},
            f"{holdout}_weight_holdout": _HELD_OUT,
        }
        yield DIVERGENCE, column | divergence, meta
        if "quantiles" in counted:
            ranges = [[value, value] for value in counted["quantiles"]]
            quantiles = {"quantiles": list(QUANTILES), "value_ranges": ranges}
            yield SHIFT, column | {"quantile_ranges": quantiles}, meta


def accepted_suite(profile: Mapping[str, Any]) -> str:
    """Return the content of the file that accepts a profile."""
    lines = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in suite(profile))
    head = f'  "name": {json.dumps(profile["dataset"])},\n  "digest": "{profile["digest"]}",\n'
    return f'{{\n{head}  "expectations": [\n{lines}\n  ]\n}}\n'


def read_accepted(path: Path | str | None) -> dict[str, Any]:
    """Read an accepted profile: the dataset's ``name`` and ``digest``, and its ``expectations``.

    Without a path, the result has no expectations.

    Raises:
        ParamsError: the file is missing or is not an accepted profile.
    """
    if path is None:
        return {"name": "none", "digest": "", "expectations": []}
    try:
        accepted = json.loads(Path(path).read_text())
        return {key: accepted[key] for key in ("name", "digest", "expectations")}
    except FileNotFoundError:
        raise ParamsError(
            f"the accepted profile {path} is missing: restore it with git, run `albef data accept` "
            "again, or remove it from validate.accepted"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise ParamsError(
            f"{path} is not an accepted profile; run `albef data accept` again"
        ) from None


def read_evaluated(path: Path | str | None) -> dict[str, Any]:
    """Read an accepted profile and keep only the expectations of its evaluation splits.

    Raises:
        ParamsError: as for :func:`read_accepted`, or the dataset has only the split ``train``.
    """
    accepted = read_accepted(path)
    items = _evaluated(accepted["expectations"])
    if accepted["expectations"] and not items:
        raise ParamsError(
            f"{path} is the profile of a dataset without evaluation splits; set "
            "validate.evaluated_on to one with evaluation splits"
        )
    return {**accepted, "expectations": items}


def _evaluated(items: Sequence[Item]) -> list[Item]:
    """Return the expectations that evaluation splits set for the training split."""
    # The number of captions per record depends on how rows were grouped, not on their content.
    return [
        {**item, "meta": {**item["meta"], "part": TRAIN}}
        for item in items
        if item["meta"]["part"] != TRAIN and item["meta"]["table"] != "records"
    ]


def measure_drift(
    rows: Mapping[str, Tables],
    profile: Mapping[str, Any],
    accepted: list[Item],
    evaluated: tuple[str, list[Item]],
    config: DriftConfig,
) -> Iterator[DriftResult]:
    """Yield the distance of each distribution from its reference.

    Args:
        rows: of the dataset by part, as :func:`albef.validation.profile.parts` returns them.
        profile: of the dataset.
        accepted: expectations of the accepted profile.
        evaluated: name of another dataset that models are evaluated on, and the expectations that
            it sets for training rows. The dataset's own evaluation splits are always compared.
        config: allowed distances.
    """
    counts = {part: profiles.count_values(tables) for part, tables in rows.items()}
    references = (
        ("accepted", "", accepted),
        ("evaluation", "", _evaluated(suite(profile))),
        ("evaluation", *evaluated),
    )
    for reference, name, items in references:
        for item in items:
            meta, column = item["meta"], item["kwargs"]["column"]
            part, table = meta["part"], meta["table"]
            if part not in rows:
                continue
            values = counts[part][table] if table in profiles.NAMES else rows[part][table][column]
            if not len(values):
                continue
            measure = DIVERGENCE if item["type"] == EXPECTATIONS[DIVERGENCE] else SHIFT
            limits: Limits = getattr(getattr(config, reference), measure)
            value = round(distance(item["kwargs"], values), 6)
            yield DriftResult(
                of=meta["what"],
                part=part,
                reference=reference,
                name=name,
                measure=measure,
                value=value,
                warn=limits.warn,
                stop=limits.stop,
                level=limits.level(value),
            )


def distance(kwargs: Mapping[str, Any], values: "pd.Series[Any] | Counter[str]") -> float:
    """Return the distance of numbers, or of counted words, from the reference of an expectation."""
    if (ranges := kwargs.get("quantile_ranges")) is not None:
        observed = pd.Series(values).quantile(ranges["quantiles"], interpolation="nearest")
        return shift(observed.to_numpy(), np.array(ranges["value_ranges"], float)[:, 0])
    partition = kwargs["partition_object"]
    weights = list(partition["weights"])
    if isinstance(values, pd.Series):
        return divergence(np.histogram(values, partition["bins"])[0], weights)
    counted = [values[name] for name in partition["values"] if name != profiles.OTHER]
    rest = values.total() - sum(counted)
    if len(counted) < len(weights) or rest:
        counted.append(rest)
    return divergence(counted, [*weights, *[0.0] * (len(counted) - len(weights))])


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


def shift(observed: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the largest move of a quantile.

    It is a share of the distance between the first and the last quantile of the reference. If these
    are equal, it is a share of the reference's middle quantile.
    """
    extent = reference[-1] - reference[0] or abs(reference[len(reference) // 2]) or 1.0
    return float(np.abs(observed - reference).max() / extent)
