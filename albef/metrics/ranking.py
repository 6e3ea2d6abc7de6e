"""Metrics of rankings, of decisions between two, and of zero-shot classification."""

from typing import TYPE_CHECKING

import numpy as np

from albef.metrics.family import Examples
from albef.tasks.rates import RANKS, accuracies, chance_recalls, ranking_recalls

if TYPE_CHECKING:
    from albef.tasks.task import Table


def score(table: "Table") -> dict[str, float]:
    """Return the metrics of a table.

    They are recalls, re-ranked and by ITC only (``itc_``), or accuracies of a paired split, or
    accuracies of a classified split, over its images and as the mean over its classes.
    """
    if _is_classified(table):
        right, labels = np.array(examples(table).scores), np.array(table["label"])
        by_class = [right[labels == label].mean() for label in sorted(set(table["label"]))]
        means = {"accuracy": right.mean(), "balanced_accuracy": np.mean(by_class)}
        return {f"zero_shot_{name}": 100 * float(mean) for name, mean in means.items()}
    if _is_paired(table):
        itc = accuracies(_first(table, "rank_itc"), table["change"])
        itc = {f"itc_{name}": value for name, value in itc.items()}
        return accuracies(_first(table, "rank"), table["change"]) | itc
    return ranking_recalls(table)


def chance(table: "Table") -> dict[str, float]:
    """Return the expected :func:`score` of a random order, decision or class."""
    if _is_classified(table):
        return dict.fromkeys(score(table), 100 / len(set(table["label"])))
    if _is_paired(table):
        return accuracies([0.5] * len(table["change"]), table["change"])
    return chance_recalls(table["query"].count("i2t"), table["query"].count("t2i"))


def examples(table: "Table") -> Examples:
    """Score a query by the mean of its three recalls, and a decision or class by 0 or 1."""
    if _is_classified(table):
        pairs = zip(table["label"], table["predicted"], strict=True)
        right = [float(label == predicted) for label, predicted in pairs]
        columns = ("", "predicted", "label")
        return Examples("zero_shot_balanced_accuracy", right, *columns, strata="label")
    if _is_paired(table):
        return Examples("accuracy", _first(table, "rank"), "caption", "top")
    ranks = np.array(table["rank"])
    scores = np.mean([ranks < k for k in RANKS], axis=0).tolist()
    return Examples("r_mean", scores, "caption", "top", strata="query", right=1.0)


def _is_classified(table: "Table") -> bool:
    return "label" in table


def _is_paired(table: "Table") -> bool:
    return "change" in table


def _first(table: "Table", column: str) -> list[float]:
    """Return 1 for each row whose rank is the first, else 0."""
    return [float(rank == 0) for rank in table[column]]
