"""Metrics of the kinds that choose one of a few classes."""

from typing import TYPE_CHECKING

from albef.metrics.family import Examples
from albef.tasks.rates import accuracies

if TYPE_CHECKING:
    from albef.tasks.task import Table


def score(table: "Table") -> dict[str, float]:
    """Return the overall accuracy and, as ``accuracy_CLASS``, that of each class."""
    return accuracies(examples(table).scores, table["answer"])


def chance(table: "Table") -> dict[str, float]:
    """Return the :func:`score` of a uniformly random class."""
    return dict.fromkeys(score(table), 100 / len(table["probabilities"][0]))


def examples(table: "Table") -> Examples:
    """Score each row as right or wrong; text assignment names the two images of a row."""
    pairs = zip(table["answer"], table["predicted"], strict=True)
    right = [float(answer == predicted) for answer, predicted in pairs]
    pictures = ("first", "second") if "first" in table else ("key",)
    return Examples("accuracy", right, "sentence", "predicted", "answer", pictures)
