"""How far a data set is from an accepted profile, and training data from what they are tested on.

An accepted profile is a suite of Great Expectations: for each histogram an expectation of its
Kullback-Leibler divergence and one of its quantiles. What is accepted stands in it, how far data
may be from that in params.yaml. Distances are what those expectations observe.
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
"""An expectation as Great Expectations keeps it in JSON: ``type``, ``kwargs`` and ``meta``."""
DIVERGENCE, SHIFT = "divergence", "shift"
EXPECTATIONS = {
    DIVERGENCE: "expect_column_kl_divergence_to_be_less_than",
    SHIFT: "expect_column_quantile_values_to_be_between",
}
_HELD_OUT = 1e-4
"""Weight that the empty bins of a reference, or words it does not have, share: without any, one
picture there would be an infinite divergence. Equal data diverge by up to as many nats."""


def suite(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The expectations that a profile makes of another data set."""
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
    """The text of the file that accepts a profile."""
    lines = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in suite(profile))
    head = f'  "name": {json.dumps(profile["dataset"])},\n  "digest": "{profile["digest"]}",\n'
    return f'{{\n{head}  "expectations": [\n{lines}\n  ]\n}}\n'


def read_accepted(path: Path | str | None) -> dict[str, Any]:
    """An accepted profile: ``name`` and ``digest`` of the data set, and its ``expectations``.

    Without a path it is one that expects nothing.

    Raises:
        ParamsError: the file is missing or holds something else.
    """
    if path is None:
        return {"name": "none", "digest": "", "expectations": []}
    try:
        accepted = json.loads(Path(path).read_text())
        return {key: accepted[key] for key in ("name", "digest", "expectations")}
    except FileNotFoundError:
        raise ParamsError(
            f"the accepted profile {path} is missing: get it back from git, accept the data set "
            "as it is, or name none"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise ParamsError(f"{path} is no accepted profile: accept the data set again") from None


def read_evaluated(path: Path | str | None) -> dict[str, Any]:
    """An accepted profile, of which only what it expects of evaluation splits is taken.

    Raises:
        ParamsError: as for :func:`read_accepted`; or it is of a data set that has only ``train``.
    """
    accepted = read_accepted(path)
    items = _evaluated(accepted["expectations"])
    if accepted["expectations"] and not items:
        raise ParamsError(
            f"{path} is the profile of a data set without evaluation splits: name that of one "
            "that models are evaluated on"
        )
    return {**accepted, "expectations": items}


def _evaluated(items: Sequence[Item]) -> list[Item]:
    """What evaluation splits expect of what is trained on."""
    # How many captions stand in a record says how rows were cut, not what they hold.
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
    """How far each distribution is from its reference.

    Args:
        rows: of the data set by part, as :func:`albef.validation.profile.parts` gives them.
        profile: of the data set.
        accepted: expectations of the accepted profile.
        evaluated: another data set that models are evaluated on, and what it expects of rows that
            are trained on; its own evaluation splits expect as much.
        config: how far it may be.
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
    """How far numbers, or counted words, are from what an expectation holds."""
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
    """Kullback-Leibler divergence of counts from a reference's, in nats.

    Bins that are empty in the reference share a weight of 1e-4.
    """
    from scipy.stats import entropy

    weights = np.array(reference, float)
    empty = weights == 0
    weights *= (1 - _HELD_OUT) / weights.sum()
    weights[empty] = _HELD_OUT / max(1, empty.sum())
    return float(entropy(observed, weights))


def shift(observed: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Farthest that a quantile has moved, as a share of what lies between the first and the last
    of the reference, or of its middle one where these are equal."""
    extent = reference[-1] - reference[0] or abs(reference[len(reference) // 2]) or 1.0
    return float(np.abs(observed - reference).max() / extent)
