"""Per-example scores of stored predictions, without torch.

Their mean is one of the kind's metrics; a test checks this for each kind.
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
"""Metric over all cases of behavior tests."""
CASES = {"test", "key", "caption", "changed", "score", "changed_score", "passed"}
"""Columns of the stored cases of behavior tests."""
_CONTENT = ("split", "digest", "more", "captions", "meta")
_ROWS = 1 << 16  # rows hashed at a time, since some datasets have millions


@dataclass(frozen=True)
class Scores:
    """Scores of the N examples of one split whose answer is known.

    Attributes:
        query_fields: columns that identify the query.
        values: per-example scores in percent (N); their :meth:`mean` is the metric.
        right: true if the answer counts as correct (N).
        strata: parts whose means have equal weight (N).
        columns: as :class:`albef.tasks.task.Examples` names them; empty for behavior tests.
    """

    metric: str
    table: pa.Table
    query_fields: tuple[str, ...]
    values: NDArray[np.float64]
    right: NDArray[np.bool_]
    strata: NDArray[np.int64]
    columns: Mapping[str, Any] = field(default_factory=dict)

    def mean(self) -> float:
        """Return the metric."""
        return float(np.mean([self.values[self.strata == s].mean() for s in set(self.strata)]))

    def example_ids(self, records: "pd.Series[Any] | None") -> "pd.Index[str]":
        """Return a unique id of each example (N).

        It consists of the query and the :func:`contents` of its record, which ``records`` has.
        """
        cells = [pc.cast(self.table[name], pa.string()).fill_null("") for name in self.query_fields]
        ids = pc.binary_join_element_wise(*cells, "\0").to_pandas()
        if records is not None:
            ids += "\0" + self.table["key"].to_pandas().map(records.astype(str)).fillna("")
        repeat = ids.groupby(ids).cumcount().astype(str)  # the same query may occur twice
        unique: pd.Index[str] = pd.Index(ids + "\0" + repeat)
        return unique


def kind_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Return the description that the kind stores in its predictions; empty if there is none."""
    metadata = schema.metadata or {}
    return dict(json.loads(metadata.get(b"kind", b"{}")))


def format_truth(row: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
    """Return the correct answer of a prediction in words, "" if there is none."""
    truths = row[columns["truth"]] if columns["truth"] else ""
    return ", ".join(dict.fromkeys(truths)) if isinstance(truths, list) else str(truths)


def from_table(table: pa.Table) -> Scores | None:
    """Return the stored scores of the predictions on one split; None if there are none."""
    if not table.num_rows:
        return None
    if set(table.column_names) >= CASES:
        return _cases(table)
    if not {"split", "credit"} <= set(table.column_names):
        return None
    spec = kind_metadata(table.schema).get("examples", {}).get(table["split"][0].as_py())
    table = drop_null_columns(table.filter(pc.is_valid(table["credit"])))
    if spec is None or not table.num_rows:
        return None
    credit = table["credit"].to_numpy()
    strata = np.zeros(len(credit), int)
    if spec["strata"]:
        strata = np.unique(table[spec["strata"]].to_pandas(), return_inverse=True)[1]
    query_fields = dict.fromkeys(filter(None, ("key", spec["question"], *spec["pictures"])))
    right = credit >= spec["right"]
    return Scores(spec["metric"], table, tuple(query_fields), 100 * credit, right, strata, spec)


def drop_null_columns(table: pa.Table) -> pa.Table:
    """Return a split's predictions without the columns of rankings of other splits.

    If the predictions are not a ranking, columns with only nulls are dropped.
    """
    names = table.column_names
    if "query" not in names or table["query"].null_count < table.num_rows:
        return table
    return table.select([name for name in names if table[name].null_count < table.num_rows])


def by_metric(table: pa.Table) -> dict[str, Scores]:
    """Return the scores of a split by metric; empty if none are stored.

    Behavior tests have the overall metric and one per test; other splits have the kind's metric.
    """
    overall = from_table(table)
    if overall is None:
        return {}
    by_test = pc.unique(table["test"]).to_pylist() if overall.metric == OVERALL else ()
    return {overall.metric: overall} | {
        test: replace(_cases(table.filter(pc.equal(table["test"], test))), metric=test)
        for test in by_test
    }


def shared_rows(
    before: "pd.Index[str]", after: "pd.Index[str]"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row indices of the examples that both have, in the order of the first."""
    matches = after.get_indexer(before)
    indices = np.flatnonzero(matches >= 0)
    return indices, matches[indices]


def contents(index: pa.Table) -> "pd.Series[Any]":
    """Return a hash of the content of each record (images, captions, meta), by key."""
    columns = [name for name in _CONTENT if name in index.column_names]
    hashes = [np.empty(0, np.uint64)]
    for rows in index.select(columns).to_batches(max_chunksize=_ROWS):
        texts = [repr(_content(row)) for row in rows.to_pylist()]
        hashes.append(pd.util.hash_array(np.array(texts, object), categorize=False))
    return pd.Series(np.concatenate(hashes), index=index["key"].to_pandas())


def _content(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with only the digests of its further images; their places may change."""
    return row | {"more": [image["digest"] for image in row.get("more") or ()]}


def _cases(table: pa.Table) -> Scores:
    passed = table["passed"].to_numpy()
    strata = np.unique(table["test"].to_pandas(), return_inverse=True)[1]
    query_fields = ("test", "key", "caption", "changed")
    return Scores(OVERALL, table, query_fields, 100.0 * passed, passed, strata)
