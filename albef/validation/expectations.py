"""Running expectations by Great Expectations, which is imported only here and when it is needed.

An item of a suite is ``{"type", "kwargs", "meta"}``, as Great Expectations keeps it in JSON;
``meta["table"]`` names the table that it looks at. Values of ``kwargs`` may be its parameters:
``{"$PARAMETER": "1 - max_empty_captions"}``.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from albef.validation.result import NotFit

SAMPLE = 10
"""Offending rows that are named."""
Item = Mapping[str, Any]
_PLACE = "place"


def run(
    tables: Mapping[str, pd.DataFrame],
    items: Sequence[Item],
    parameters: Mapping[str, Any] | None = None,
) -> list[Mapping[str, Any]]:
    """What came of each item, in order: all of a table run together.

    Raises:
        NotFit: an expectation that cannot be computed.
    """
    outcomes: dict[int, Mapping[str, Any]] = {}
    with _context(mode="ephemeral") as context:
        for name, frame, suite in _suites(tables, items):
            batch = _definition(context, name).get_batch({"dataframe": frame})
            results = batch.validate(
                suite,
                expectation_parameters=dict(parameters or {}),
                result_format={
                    "result_format": "SUMMARY",
                    "partial_unexpected_count": SAMPLE,
                    **({"unexpected_index_column_names": ["key"]} if "key" in frame else {}),
                },
            ).to_json_dict()["results"]
            for outcome in results:
                index = outcome["expectation_config"]["meta"][_PLACE]
                if not outcome["result"]:
                    raise NotFit(
                        f"the expectation {items[index]['type']} of {name} cannot be computed: "
                        f"{_message(outcome['exception_info'])}"
                    )
                outcomes[index] = outcome
    return [outcomes[index] for index in range(len(items))]


def write_data_docs(
    tables: Mapping[str, pd.DataFrame],
    items: Sequence[Item],
    parameters: Mapping[str, Any],
    out: Path,
) -> Path:
    """Run items and draw what came of them as Data Docs, the web site of Great Expectations.

    Returns:
        The page to open.

    Raises:
        ValueError: the folder is there already.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: name another folder, or remove it")
    with (
        tempfile.TemporaryDirectory() as work,
        _context(mode="file", project_root_dir=work) as context,
    ):
        import great_expectations as gx

        for name, frame, suite in _suites(tables, items):
            validation = gx.ValidationDefinition(
                name=name, data=_definition(context, name), suite=context.suites.add(suite)
            )
            context.validation_definitions.add(validation).run(
                batch_parameters={"dataframe": frame}, expectation_parameters=dict(parameters)
            )
        context.build_data_docs()
        shutil.copytree(next(Path(work).rglob("local_site")), out)
    return out / "index.html"


def _suites(
    tables: Mapping[str, pd.DataFrame], items: Sequence[Item]
) -> Iterator[tuple[str, pd.DataFrame, Any]]:
    """The tables that items look at, each with its suite; an expectation carries its place."""
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    for name, frame in tables.items():
        expectations = [
            ExpectationConfiguration(
                type=item["type"], kwargs=dict(item["kwargs"]), meta={**item["meta"], _PLACE: index}
            ).to_domain_obj()
            for index, item in enumerate(items)
            if item["meta"]["table"] == name
        ]
        if expectations:
            yield name, frame, gx.ExpectationSuite(name=name, expectations=expectations)


def _definition(context: Any, name: str) -> Any:
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    return asset.add_batch_definition_whole_dataframe(name)


@contextlib.contextmanager
def _context(**options: str) -> Iterator[Any]:
    """Great Expectations, which reports nothing home and keeps the terminal clear."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of its own dependencies
            import great_expectations as gx
            from great_expectations.data_context.types.base import ProgressBarsConfig

            context: Any = gx.get_context(**options)  # type: ignore[call-overload,unused-ignore]
            context.variables.progress_bars = ProgressBarsConfig(
                globally=False, metric_calculations=False
            )
            yield context
    finally:
        logging.disable(disabled)


def _message(info: Mapping[str, Any]) -> str:
    """The first message of what was raised, by the expectation or by something it counts."""
    if "exception_message" in info:
        return str(info["exception_message"])
    return next((_message(one) for one in info.values() if isinstance(one, Mapping)), "no reason")
