"""The suites, JSON in ``albef/validation/suite_files``: one for all data sets, one for each kind.

Where a value reads ``$NAME`` or ``$1-NAME`` it is taken from :class:`ValidateConfig`.
"""

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import pandas as pd

from albef.validation.config import ValidateConfig
from albef.validation.expectations import SAMPLE, Item, run
from albef.validation.kinds import KINDS
from albef.validation.outcome import Check
from albef.validation.tables import Tables

COMMON = "image_text"
"""The suite of every data set."""


def suite(name: str, config: ValidateConfig) -> list[dict[str, Any]]:
    """The expectations of a suite, with the thresholds of ``config``."""
    text = resources.files("albef.validation").joinpath("suite_files", f"{name}.json").read_text()
    values = config.model_dump()

    def filled(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        name = value.removeprefix("$").removeprefix("1-")
        return 1 - values[name] if value.startswith("$1-") else values[name]

    expectations: list[dict[str, Any]] = json.loads(text)["expectations"]
    return [
        {**item, "kwargs": {name: filled(value) for name, value in item["kwargs"].items()}}
        for item in expectations
    ]


def held_to(tables: Tables, config: ValidateConfig) -> tuple[dict[str, pd.DataFrame], list[Item]]:
    """The expectations of a data set: those of all, and of each kind over its own records.

    Returns:
        Tables by name, and the items that name them; ``meta["suite"]`` says whose an item is.
    """
    named: dict[str, pd.DataFrame] = {}
    items: list[Item] = []
    present = set(tables["records"]["kind"])
    for name in (COMMON, *(kind for kind in KINDS if kind in present)):
        own = suite(name, config)
        for table in dict.fromkeys(item["meta"]["table"] for item in own):
            frame = tables[table]
            if name != COMMON:
                frame = frame[frame["kind"] == name].reset_index(drop=True)
            named[f"{name}.{table}"] = frame
        for item in own:
            table = f"{name}.{item['meta']['table']}"
            items.append({**item, "meta": {**item["meta"], "table": table, "suite": name}})
    return named, items


def checks(tables: Tables, config: ValidateConfig) -> Iterator[Check]:
    """Hold a data set against its suites; yields their expectations in order.

    Raises:
        NotFit: an expectation that cannot be computed.
    """
    named, items = held_to(tables, config)
    for item, outcome in zip(items, run(named, items), strict=True):
        yield _check(item, outcome, named[item["meta"]["table"]])


def _check(item: Item, outcome: Mapping[str, Any], frame: pd.DataFrame) -> Check:
    result, kwargs, meta = outcome["result"], item["kwargs"], item["meta"]
    column = kwargs.get("column")
    table = meta["table"].removeprefix(meta["suite"] + ".")
    bounds = [
        f"at {word} {kwargs[name]:g}"
        for word, name in (("least", "min_value"), ("most", "max_value"))
        if name in kwargs
    ]
    return Check(
        what=meta["what"],
        expectation=item["type"],
        column=f"{table}.{column}" if column else table,
        passed=bool(outcome["success"]),
        counted=int(result.get("element_count", len(frame))) - int(result.get("missing_count", 0)),
        failed=int(result.get("unexpected_count", not outcome["success"])),
        allowed=round(1 - kwargs.get("mostly", 1.0), 12),
        bound=" and ".join(bounds),
        threshold=meta.get("threshold", ""),
        sample=_sample(result, frame, column) if column else (),
        suite=meta["suite"],
    )


def _sample(
    result: Mapping[str, Any], frame: pd.DataFrame, column: str
) -> tuple[Mapping[str, Any], ...]:
    """The first offending rows: each is known by its key and by the value that offends."""
    found = pd.DataFrame(result.get("partial_unexpected_index_list") or [])
    if found.empty:
        return ()
    names = list(dict.fromkeys(["key", column]))
    candidates = frame[frame["key"].isin(found["key"])]
    offending = candidates.merge(found[names].drop_duplicates(), on=names)
    shown = ["key", "split", *(name for name in ("caption", column) if name in frame)]
    rows = offending[list(dict.fromkeys(shown))][:SAMPLE]
    return tuple(json.loads(rows.to_json(orient="records")))
