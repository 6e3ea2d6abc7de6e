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
        for part, own in profiles.parts_of(profile)
        for measure, kwargs, meta in _expected(own)
    ]


def _expected(part: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for own in (*part["numbers"], *part["categories"]):
        by, holdout = ("bins", "internal") if "bins" in own else ("values", "tail")
        whole = sum(own["counts"])
        weights = [count / whole for count in own["counts"]]
        meta = {"table": own["table"], "what": own["what"]}
        column = {"column": own.get("column", "value")}
        divergence = {
            "partition_object": {by: own[by], "weights": weights},
            "threshold": {"$PARAMETER": "divergence"},
            f"{holdout}_weight_holdout": _HELD_OUT,
        }
        yield DIVERGENCE, column | divergence, meta
        if "quantiles" in own:
            ranges = [[value, value] for value in own["quantiles"]]
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
        held = json.loads(Path(path).read_text())
        items = held["expectations"]
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
        "name": str(held.get("name", "")),
        "digest": held.get("digest", ""),
        "expectations": items,
    }


def read_evaluated(path: Path | str | None) -> dict[str, Any]:
    """An accepted profile, of which only what it expects of evaluation splits is taken.

    Raises:
        ParamsError: as for :func:`read_accepted`; or it is of a data set that has only ``train``.
    """
    held = read_accepted(path)
    items = _evaluated(held["expectations"])
    if held["expectations"] and not items:
        raise ParamsError(
            f"{path} is the profile of a data set without evaluation splits: name that of one "
            "that models are evaluated on"
        )
    return {**held, "expectations": items}


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
        across = self.ranges[-1][1] - self.ranges[0][0]
        return across or abs(self.ranges[len(self.ranges) // 2][0]) or 1.0

    def limited(self, table: str, limit: float | None) -> Item:
        """The expectation of a table with its limit; None expects nothing."""
        kwargs = dict(self.item["kwargs"])
        if self.measure == DIVERGENCE:
            kwargs["threshold"] = limit
        else:
            wide = [
                [None, None]
                if limit is None
                else [low - limit * self.scale, high + limit * self.scale]
                for low, high in self.ranges
            ]
            kwargs["quantile_ranges"] = {**kwargs["quantile_ranges"], "value_ranges": wide}
        return {**self.item, "kwargs": kwargs, "meta": {**self.item["meta"], "table": table}}

    def value(self, observed: Any) -> float | None:
        """How far the distribution is, of what Great Expectations observed."""
        if self.measure == DIVERGENCE:
            return None if observed is None else round(float(observed), 6)
        pairs = zip(observed["values"], self.ranges, strict=True)
        far = max(abs(float(value) - low) for value, (low, _) in pairs)
        return round(far / self.scale, 6)


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
    name, of_other = evaluated
    distributions = [_Distribution("accepted", "", item) for item in accepted]
    distributions += [_Distribution("evaluation", "", item) for item in _evaluated(suite(profile))]
    distributions += [_Distribution("evaluation", name, item) for item in of_other]
    frames: dict[str, pd.DataFrame] = {}
    items: list[Item] = []
    measured: list[tuple[_Distribution, Limits]] = []
    counts = {part: profiles.count_values(tables) for part, tables in rows.items()}
    for one in distributions:
        table = one.item["meta"]["table"]
        if one.part not in rows:
            continue
        frame = f"{one.part}.{table}"
        if table in profiles.NAMES:
            frame = f"{one.reference}.{one.name}.{frame}"
            values = one.item["kwargs"]["partition_object"]["values"]
            column = profiles.repeated(counts[one.part][table], values)
            frames[frame] = pd.DataFrame({"value": column})
        else:
            frames[frame] = rows[one.part][table]
        if frames[frame].empty:
            continue
        limits: Limits = getattr(getattr(config, one.reference), one.measure)
        measured.append((one, limits))
        items += [one.limited(frame, limit) for limit in (limits.warn, limits.stop)]
    outcomes = run(frames, items)
    results = []
    for (one, limits), warn, stop in zip(measured, outcomes[::2], outcomes[1::2], strict=True):
        level = "met" if warn["success"] else "warned"
        results.append(
            DriftResult(
                of=one.item["meta"]["what"],
                part=one.part,
                reference=one.reference,
                name=one.name,
                measure=one.measure,
                value=one.value(stop["result"]["observed_value"]),
                warn=limits.warn,
                stop=limits.stop,
                level=level if stop["success"] else "stopped",
            )
        )
    return results
