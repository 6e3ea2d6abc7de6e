"""What each stored prediction is worth, told by the columns that its kind writes; no torch.

The mean of these values is the kind's own primary metric; a test holds each kind to that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.boxes import RIGHT
from albef.report.examples import RANKED, is_paired
from albef.tasks.vqa_accuracy import judged

CASES = {"test", "key", "caption", "changed", "score", "changed_score", "passed"}
"""Columns of the stored cases of behaviour tests."""
_RANKS = (1, 5, 10)
"""Places whose recalls are averaged to ``r_mean``."""


@dataclass(frozen=True)
class Scores:
    """The examples of one split whose answer is known, and what each is worth.

    Attributes:
        metric: its name; its value is :meth:`mean`.
        table: predictions (N).
        asked: columns that say what was asked.
        values: of each example in percent (N).
        right: whether the answer counts as right (N); a change of it is a flip.
        strata: parts whose means count alike (N).
    """

    metric: str
    table: pa.Table
    asked: tuple[str, ...]
    values: NDArray[np.float64]
    right: NDArray[np.bool_]
    strata: NDArray[np.int64]

    def mean(self) -> float:
        """The metric."""
        return float(np.mean([self.values[self.strata == s].mean() for s in set(self.strata)]))

    def names(self, records: "pd.Series[Any] | None") -> "pd.Index[str]":
        """What tells each example from any other (N).

        Args:
            records: a hash of what stands in each record, by key; None takes what was asked alone.
        """
        cells = [pc.cast(self.table[name], pa.string()).fill_null("") for name in self.asked]
        told = pc.binary_join_element_wise(*cells, "\0").to_pandas()
        if records is not None:
            told += "\0" + self.table["key"].to_pandas().map(records.astype(str)).fillna("")
        again = told.groupby(told).cumcount().astype(str)  # the same may be asked twice
        names: pd.Index[str] = pd.Index(told + "\0" + again)
        return names


def of(table: pa.Table) -> Scores | None:
    """Scores of the predictions on one split; None of a kind that is not known here, or of no row.

    Args:
        table: rows of that split.
    """
    columns = set(table.column_names)
    for needed, score in _KINDS:
        if needed <= columns:
            found = score(table)
            return found if len(found.values) else None
    return None


def parts(table: pa.Table) -> dict[str, Scores]:
    """The scores of a split by metric: the one of its kind or, of behaviour tests, the overall one
    and that of each test; empty where they are not known."""
    whole = of(table)
    if whole is None:
        return {}
    found = {whole.metric: whole}
    if set(table.column_names) >= CASES:
        for test in pc.unique(table["test"]).to_pylist():
            found[test] = replace(_cases(table.filter(pc.equal(table["test"], test))), metric=test)
    return found


def shared(
    before: "pd.Index[str]", after: "pd.Index[str]"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the examples that both have, in the order of the first."""
    at = after.get_indexer(before)
    own = np.flatnonzero(at >= 0)
    return own, at[own]


def _plain(
    table: pa.Table, metric: str, asked: tuple[str, ...], values: NDArray[np.float64]
) -> Scores:
    """Scores of a mean over all examples; more than half right is right."""
    return Scores(metric, table, asked, 100 * values, values >= 0.5, np.zeros(len(values), int))


def _ranking(table: pa.Table) -> Scores:
    asked, rank = ("query", "key", "caption"), table["rank"].to_numpy()
    if is_paired(table):
        return _plain(table, "accuracy", asked, (rank == 0).astype(float))
    values = 100 * np.mean([rank < k for k in _RANKS], axis=0)
    strata = pc.equal(table["query"], "t2i").to_numpy().astype(int)
    return Scores("r_mean", table, asked, values, rank == 0, strata)


def _questions(table: pa.Table) -> Scores:
    table = table.filter(pc.greater(pc.list_value_length(table["truths"]), 0))
    nothing = [None] * table.num_rows
    annotators = table["annotators"].to_pylist() if "annotators" in table.column_names else nothing
    rows = zip(table["answer"].to_pylist(), table["truths"].to_pylist(), annotators, strict=True)
    right = np.array([judged(*row) for row in rows], float)
    return _plain(table, "accuracy", ("key", "question"), right)


def _classes(table: pa.Table) -> Scores:
    asked = ("key", "sentence", *(n for n in ("first", "second") if n in table.column_names))
    right = pc.equal(table["answer"], table["predicted"]).to_numpy().astype(float)
    return _plain(table, "accuracy", asked, right)


def _boxes(table: pa.Table) -> Scores:
    right = (table["iou"].to_numpy() >= RIGHT).astype(float)
    return _plain(table, "accuracy", ("key", "expression"), right)


def _cases(table: pa.Table) -> Scores:
    passed = table["passed"].to_numpy()
    strata = np.unique(table["test"].to_pandas(), return_inverse=True)[1]
    asked = ("test", "key", "caption", "changed")
    return Scores("overall", table, asked, 100.0 * passed, passed, strata)


def _captions(table: pa.Table) -> Scores:
    rows = zip(table["written"].to_pylist(), table["truths"].to_pylist(), strict=True)
    return _plain(table, "exact", ("key",), np.array([float(text in own) for text, own in rows]))


_KINDS: tuple[tuple[set[str], Callable[[pa.Table], Scores]], ...] = (
    (RANKED, _ranking),
    ({"key", "expression", "iou"}, _boxes),
    ({"key", "sentence", "answer", "predicted"}, _classes),
    ({"key", "question", "answer", "truths"}, _questions),
    ({"key", "written", "truths"}, _captions),
    (CASES, _cases),
)
"""Columns that tell a kind, and its scores."""
