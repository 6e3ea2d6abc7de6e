"""Suites of expectations, JSON files in ``albef/validation/suite_files``.

One suite applies to all datasets, and each kind of records has its own. Great Expectations runs
them; it is imported only in this module, when it is needed. An item of a suite is
``{"type", "kwargs", "meta"}``, where ``meta["table"]`` names the table that it checks. A value in
``kwargs`` may be computed from a field of :class:`ValidateConfig`:
``{"$PARAMETER": "1 - max_empty_captions"}``.
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import pandas as pd

from albef.validation.annotations import KINDS
from albef.validation.config import ValidateConfig
from albef.validation.result import Check, ValidationFailedError
from albef.validation.tables import Tables

COMMON = "image_text"
"""The suite of every dataset."""
_SAMPLE = 10  # failing rows that are listed
_SHOWN = ("key", "split", "caption")  # of these columns, and of the one that is checked


def read_suite(name: str) -> list[dict[str, Any]]:
    """Return the expectations of a suite."""
    text = resources.files("albef.validation").joinpath("suite_files", f"{name}.json").read_text()
    expectations: list[dict[str, Any]] = json.loads(text)["expectations"]
    return expectations


def check_suites(tables: Tables, config: ValidateConfig) -> tuple[Check, ...]:
    """Check a dataset against the common suite and the suites of its kinds.

    The suite of a kind sees only records of this kind. The checks are in the order of the suites.

    Raises:
        ValidationFailedError: an expectation cannot be computed.
    """
    checks: list[Check] = []
    kinds = set(tables["records"]["kind"])
    with _context() as context:
        for suite in (COMMON, *(kind for kind in KINDS if kind in kinds)):
            items = read_suite(suite)
            found: dict[str, Check] = {}
            for table in {item["meta"]["table"] for item in items}:
                own = [item for item in items if item["meta"]["table"] == table]
                rows = tables[table]
                if suite != COMMON:
                    rows = rows[rows["kind"] == suite].reset_index(drop=True)
                for outcome in _run(context, f"{suite}.{table}", own, rows, config):
                    check = _check(suite, table, outcome, rows)
                    found[check.what] = check
            checks += [found[item["meta"]["what"]] for item in items]
    return tuple(checks)


def _run(
    context: Any,
    name: str,
    items: Sequence[Mapping[str, Any]],
    rows: pd.DataFrame,
    config: ValidateConfig,
) -> list[dict[str, Any]]:
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    expectations = [ExpectationConfiguration(**item).to_domain_obj() for item in items]
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": rows})
    outcomes: list[dict[str, Any]] = batch.validate(
        gx.ExpectationSuite(name=name, expectations=expectations),
        expectation_parameters=config.model_dump(exclude={"drift"}),
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": _SAMPLE,
            "unexpected_index_column_names": [name for name in _SHOWN if name in rows],
        },
    ).to_json_dict()["results"]
    for outcome in outcomes:
        if not outcome["result"]:
            expected = outcome["expectation_config"]["type"]
            raise ValidationFailedError(
                f"{expected} of {name} cannot be computed: {outcome['exception_info']}"
            )
    return outcomes


@contextlib.contextmanager
def _context() -> Iterator[Any]:
    """Yield a Great Expectations context that sends no analytics and prints nothing."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Great Expectations warns about its own dependencies
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            context: Any = gx.get_context(mode="ephemeral")
            context.variables.progress_bars = ProgressBarsConfig(
                globally=False, metric_calculations=False
            )
            yield context
    finally:
        logging.disable(disabled)


def _check(suite: str, table: str, outcome: Mapping[str, Any], rows: pd.DataFrame) -> Check:
    result, expected = outcome["result"], outcome["expectation_config"]
    kwargs, meta = expected["kwargs"], expected["meta"]
    column = kwargs.get("column")
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
        counted=int(result.get("element_count", len(rows))) - int(result.get("missing_count", 0)),
        failed=int(result.get("unexpected_count", not outcome["success"])),
        allowed=round(1 - kwargs.get("mostly", 1.0), 12),
        bound=" and ".join(bounds),
        threshold=meta.get("threshold", ""),
        sample=tuple(
            {name: row[name] for name in (*_SHOWN, column) if name in row}
            for row in result.get("partial_unexpected_index_list") or ()
        ),
        suite=suite,
    )
