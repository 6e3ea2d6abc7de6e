"""Running expectations by Great Expectations, which is imported only here and when it is needed.

An item of a suite is ``{"type", "kwargs", "meta"}``, as Great Expectations keeps it in JSON;
``meta["table"]`` names the table that it looks at.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from albef.validation.outcome import NotFit

SAMPLE = 10
"""Offending rows that are named."""
Item = Mapping[str, Any]
_PLACE = "place"


def run(tables: Mapping[str, pd.DataFrame], items: Sequence[Item]) -> list[Mapping[str, Any]]:
    """What came of each item, in order.

    All items of a table run together, so that what several of them need is counted once; each
    carries its place along, and is known by it.

    Raises:
        NotFit: an expectation that cannot be computed.
    """
    outcomes: dict[int, Mapping[str, Any]] = {}
    with quiet():
        context = _context()
        for name, frame in tables.items():
            places = [i for i, item in enumerate(items) if item["meta"]["table"] == name]
            if places:
                outcomes.update(_of_table(context, name, frame, places, items))
    return [outcomes[place] for place in range(len(items))]


def _of_table(
    context: Any, name: str, frame: pd.DataFrame, places: Sequence[int], items: Sequence[Item]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from great_expectations.core.expectation_suite import ExpectationSuite

    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
    found = batch.validate(
        ExpectationSuite(name=name, expectations=[expectation(items[i], i) for i in places]),
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": SAMPLE,
            **({"unexpected_index_column_names": ["key"]} if "key" in frame else {}),
        },
    ).to_json_dict()["results"]
    for outcome in found:
        place = outcome["expectation_config"]["meta"][_PLACE]
        if not outcome["result"]:
            raise NotFit(
                f"the expectation {items[place]['type']} of {name} cannot be computed: "
                f"{_message(outcome['exception_info'])}"
            )
        yield place, outcome


def expectation(item: Item, place: int) -> Any:
    """An item as an object of Great Expectations."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    return ExpectationConfiguration(
        type=item["type"], kwargs=dict(item["kwargs"]), meta={**item["meta"], _PLACE: place}
    ).to_domain_obj()


def _context() -> Any:
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    without_bars(context)
    return context


def without_bars(context: Any) -> None:
    """Have a context of Great Expectations draw no progress bars."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)


def _message(info: Mapping[str, Any]) -> str:
    """The first message of what was raised, by the expectation or by something it counts."""
    if "exception_message" in info:
        return str(info["exception_message"])
    return next((_message(one) for one in info.values() if isinstance(one, Mapping)), "no reason")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Great Expectations from reporting home, and its warnings and notes off the terminal."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of its own dependencies
            yield
    finally:
        logging.disable(disabled)
