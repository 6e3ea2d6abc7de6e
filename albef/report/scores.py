"""What each stored prediction is worth, as the evaluation wrote it beside them; no torch.

The mean of these values is a metric of the kind's own; a test holds each kind to that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

OVERALL = "overall"
"""The metric of all cases of behaviour tests."""
CASES = {"test", "key", "caption", "changed", "score", "changed_score", "passed"}
"""Columns of the stored cases of behaviour tests."""


@dataclass(frozen=True)
class Scores:
    """The N examples of one split whose answer is known, and what each is worth.

    Attributes:
        query_fields: columns that say what was asked.
        values: of each example in percent (N); their :meth:`mean` is the metric.
        right: whether the answer counts as right (N); a change of it is a flip.
        strata: parts whose means count alike (N).
        columns: as :class:`albef.tasks.task.Examples` names them; empty of behaviour tests.
    """

    metric: str
    table: pa.Table
    query_fields: tuple[str, ...]
    values: NDArray[np.float64]
    right: NDArray[np.bool_]
    strata: NDArray[np.int64]
    columns: Mapping[str, Any] = field(default_factory=dict)

    def mean(self) -> float:
        """The metric."""
        return float(np.mean([self.values[self.strata == s].mean() for s in set(self.strata)]))

    def names(self, records: "pd.Series[Any] | None") -> "pd.Index[str]":
        """What tells each example from any other (N): what was asked and, by a hash by key, what
        stands in its record."""
        cells = [pc.cast(self.table[name], pa.string()).fill_null("") for name in self.query_fields]
        ids = pc.binary_join_element_wise(*cells, "\0").to_pandas()
        if records is not None:
            ids += "\0" + self.table["key"].to_pandas().map(records.astype(str)).fillna("")
        repeat = ids.groupby(ids).cumcount().astype(str)  # the same may be asked twice
        names: pd.Index[str] = pd.Index(ids + "\0" + repeat)
        return names


def described(schema: pa.Schema) -> dict[str, Any]:
    """What the kind of predictions says of itself; empty of tables that tell nothing."""
    metadata = schema.metadata or {}
    return dict(json.loads(metadata.get(b"kind", b"{}")))


def truth_of(row: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
    """The right answer of a prediction in words, "" where there is none."""
    truths = row[columns["truth"]] if columns["truth"] else ""
    return ", ".join(dict.fromkeys(truths)) if isinstance(truths, list) else str(truths)


def of(table: pa.Table) -> Scores | None:
    """Scores of the predictions on one split, as the evaluation stored them; None of a table that
    does not tell what its rows are worth, or that has none."""
    if not table.num_rows:
        return None
    if set(table.column_names) >= CASES:
        return _cases(table)
    if not {"split", "credit"} <= set(table.column_names):
        return None
    spec = described(table.schema).get("examples", {}).get(table["split"][0].as_py())
    table = filled(table.filter(pc.is_valid(table["credit"])))
    if spec is None or not table.num_rows:
        return None
    credit = table["credit"].to_numpy()
    strata = np.zeros(len(credit), int)
    if spec["strata"]:
        strata = np.unique(table[spec["strata"]].to_pandas(), return_inverse=True)[1]
    query_fields = dict.fromkeys(filter(None, ("key", spec["question"], *spec["pictures"])))
    right = credit >= spec["right"]
    return Scores(spec["metric"], table, tuple(query_fields), 100 * credit, right, strata, spec)


def filled(table: pa.Table) -> pa.Table:
    """A split's predictions; those that are no ranking without the columns of other splits' one."""
    names = table.column_names
    if "query" not in names or table["query"].null_count < table.num_rows:
        return table
    return table.select([name for name in names if table[name].null_count < table.num_rows])


def parts(table: pa.Table) -> dict[str, Scores]:
    """The scores of a split by metric: the one of its kind or, of behaviour tests, the overall one
    and that of each test; empty where they are not known."""
    overall = of(table)
    if overall is None:
        return {}
    by_test = pc.unique(table["test"]).to_pylist() if overall.metric == OVERALL else ()
    return {overall.metric: overall} | {
        test: replace(_cases(table.filter(pc.equal(table["test"], test))), metric=test)
        for test in by_test
    }


def shared(
    before: "pd.Index[str]", after: "pd.Index[str]"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the examples that both have, in the order of the first."""
    matches = after.get_indexer(before)
    places = np.flatnonzero(matches >= 0)
    return places, matches[places]


def _cases(table: pa.Table) -> Scores:
    passed = table["passed"].to_numpy()
    strata = np.unique(table["test"].to_pandas(), return_inverse=True)[1]
    query_fields = ("test", "key", "caption", "changed")
    return Scores(OVERALL, table, query_fields, 100.0 * passed, passed, strata)
