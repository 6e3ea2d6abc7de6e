"""The suites, JSON in ``albef/validation/suite_files``: one for all data sets, one for each kind.

Their parameters are the fields of :class:`ValidateConfig`.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import pandas as pd

from albef.validation.annotations import KINDS
from albef.validation.config import ValidateConfig
from albef.validation.expectations import SAMPLE, Item, run
from albef.validation.result import Check
from albef.validation.tables import Tables

COMMON = "image_text"
"""The suite of every data set."""


def read_suite(name: str) -> list[dict[str, Any]]:
    """The expectations of a suite."""
    text = resources.files("albef.validation").joinpath("suite_files", f"{name}.json").read_text()
    expectations: list[dict[str, Any]] = json.loads(text)["expectations"]
    return expectations


def parameters(config: ValidateConfig) -> dict[str, Any]:
    """What the parameters of the suites stand for."""
    return config.model_dump(exclude={"drift"})


def expectations_of(tables: Tables) -> tuple[dict[str, pd.DataFrame], list[Item]]:
    """The expectations of a data set: those of all, and of each kind over its own records.

    Returns:
        Tables by name, and the items that name them; ``meta["suite"]`` says whose an item is.
    """
    named: dict[str, pd.DataFrame] = {}
    items: list[Item] = []
    present = set(tables["records"]["kind"])
    for name in (COMMON, *(kind for kind in KINDS if kind in present)):
        for item in read_suite(name):
            table = item["meta"]["table"]
            if (frame := f"{name}.{table}") not in named:
                rows = tables[table]["kind"] == name
                named[frame] = (
                    tables[table] if name == COMMON else tables[table][rows].reset_index(drop=True)
                )
            items.append({**item, "meta": {**item["meta"], "table": frame, "suite": name}})
    return named, items


def check_suites(tables: Tables, config: ValidateConfig) -> tuple[Check, ...]:
    """Hold a data set against its suites; their expectations in order.

    Raises:
        NotFit: an expectation that cannot be computed.
    """
    named, items = expectations_of(tables)
    outcomes = run(named, items, parameters(config))
    return tuple(_check(outcome, named) for outcome in outcomes)


def _check(outcome: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Check:
    result, expected = outcome["result"], outcome["expectation_config"]
    kwargs, meta = expected["kwargs"], expected["meta"]
    frame, column = tables[meta["table"]], kwargs.get("column")
    table = meta["table"].removeprefix(meta["suite"] + ".")
    bounds = [
        f"at {word} {kwargs[name]:g}"
        for word, name in (("least", "min_value"), ("most", "max_value"))
        if name in kwargs
    ]
    return Check(
        what=meta["what"],
        expectation=expected["type"],
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
    unexpected = pd.DataFrame(result.get("partial_unexpected_index_list") or [])
    if unexpected.empty:
        return ()
    names = list(dict.fromkeys(["key", column]))
    candidates = frame[frame["key"].isin(unexpected["key"])]
    offending = candidates.merge(unexpected[names].drop_duplicates(), on=names)
    columns = ["key", "split", *(name for name in ("caption", column) if name in frame)]
    rows = offending[list(dict.fromkeys(columns))][:SAMPLE]
    return tuple(json.loads(rows.to_json(orient="records")))
