"""How far a data set is from an accepted profile, and training data from what they are tested on.

An accepted profile is a suite: for each histogram an expectation of its Kullback-Leibler divergence
and one of its quantiles. What is accepted stands in it, how far data may be from that in
params.yaml: the divergence is held against it, and the ranges of quantiles are widened by it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from albef.config import ParamsError
from albef.validation import profile as profiles
from albef.validation.config import DriftConfig, Limits
from albef.validation.expectations import Item, run
from albef.validation.profile import QUANTILES
from albef.validation.result import DriftResult
from albef.validation.tables import TRAIN, Tables

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
        items = accepted["expectations"]
        for item in items:
            if item["type"] not in EXPECTATIONS.values():
                raise ValueError(f"{item['type']} is no expectation of a profile")
            _ = [item["meta"][key] for key in ("table", "part", "what")], item["kwargs"]["column"]
    except FileNotFoundError:
        raise ParamsError(
            f"the accepted profile {path} is missing: get it back from git, accept the data set "
            "as it is, or name none"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ParamsError(
            f"{path} is no accepted profile ({type(error).__name__}: {error}): accept the data "
            "set again"
        ) from None
    return {
        "name": str(accepted.get("name", "")),
        "digest": accepted.get("digest", ""),
        "expectations": items,
    }


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


@dataclass(frozen=True)
class _Distribution:
    """An expectation of a distribution, and whose it is: fields as in :class:`DriftResult`."""

    reference: str
    name: str
    item: Item

    @property
    def part(self) -> str:
        return str(self.item["meta"]["part"])

    @property
    def measure(self) -> str:
        return DIVERGENCE if self.item["type"] == EXPECTATIONS[DIVERGENCE] else SHIFT

    @property
    def ranges(self) -> list[list[float]]:
        ranges: list[list[float]] = self.item["kwargs"]["quantile_ranges"]["value_ranges"]
        return ranges

    @property
    def scale(self) -> float:
        """What shifts are measured in: from the first quantile to the last, or else the size of
        the middle one."""
        extent = self.ranges[-1][1] - self.ranges[0][0]
        return extent or abs(self.ranges[len(self.ranges) // 2][0]) or 1.0

    def limited(self, table: str, limit: float | None) -> Item:
        """The expectation of a table with its limit; None expects nothing."""
        kwargs = dict(self.item["kwargs"])
        if self.measure == DIVERGENCE:
            kwargs["threshold"] = limit
        else:
            widened = [
                [None, None]
                if limit is None
                else [low - limit * self.scale, high + limit * self.scale]
                for low, high in self.ranges
            ]
            kwargs["quantile_ranges"] = {**kwargs["quantile_ranges"], "value_ranges": widened}
        return {**self.item, "kwargs": kwargs, "meta": {**self.item["meta"], "table": table}}

    def value(self, observed: Any) -> float | None:
        """How far the distribution is, of what Great Expectations observed."""
        if self.measure == DIVERGENCE:
            return None if observed is None else round(float(observed), 6)
        pairs = zip(observed["values"], self.ranges, strict=True)
        distance = max(abs(float(value) - low) for value, (low, _) in pairs)
        return round(distance / self.scale, 6)


def measure_drift(
    rows: Mapping[str, Tables],
    profile: Mapping[str, Any],
    accepted: list[Item],
    evaluated: tuple[str, list[Item]],
    config: DriftConfig,
) -> list[DriftResult]:
    """How far each distribution is from its reference.

    Args:
        rows: of the data set by part, as :func:`albef.validation.profile.parts` gives them.
        profile: of the data set.
        accepted: expectations of the accepted profile.
        evaluated: another data set that models are evaluated on, and what it expects of rows that
            are trained on; its own evaluation splits expect as much.
        config: how far it may be.

    Raises:
        NotFit: an expectation of the accepted profile cannot be computed.
    """
    name, expected = evaluated
    distributions = [_Distribution("accepted", "", item) for item in accepted]
    distributions += [_Distribution("evaluation", "", item) for item in _evaluated(suite(profile))]
    distributions += [_Distribution("evaluation", name, item) for item in expected]
    frames: dict[str, pd.DataFrame] = {}
    items: list[Item] = []
    jobs: list[tuple[_Distribution, Limits]] = []
    counts = {part: profiles.count_values(tables) for part, tables in rows.items()}
    for distribution in distributions:
        table = distribution.item["meta"]["table"]
        if distribution.part not in rows:
            continue
        frame = f"{distribution.part}.{table}"
        if table in profiles.NAMES:
            frame = f"{distribution.reference}.{distribution.name}.{frame}"
            values = distribution.item["kwargs"]["partition_object"]["values"]
            column = profiles.repeated(counts[distribution.part][table], values)
            frames[frame] = pd.DataFrame({"value": column})
        else:
            frames[frame] = rows[distribution.part][table]
        if frames[frame].empty:
            continue
        limits: Limits = getattr(getattr(config, distribution.reference), distribution.measure)
        jobs.append((distribution, limits))
        items += [distribution.limited(frame, limit) for limit in (limits.warn, limits.stop)]
    outcomes = run(frames, items)
    results = []
    for (distribution, limits), warn, stop in zip(jobs, outcomes[::2], outcomes[1::2], strict=True):
        level = "met" if warn["success"] else "warned"
        results.append(
            DriftResult(
                of=distribution.item["meta"]["what"],
                part=distribution.part,
                reference=distribution.reference,
                name=distribution.name,
                measure=distribution.measure,
                value=distribution.value(stop["result"]["observed_value"]),
                warn=limits.warn,
                stop=limits.stop,
                level=level if stop["success"] else "stopped",
            )
        )
    return results
