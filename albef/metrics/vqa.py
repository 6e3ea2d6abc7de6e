"""Metrics of answers to questions: the official VQA accuracy."""

from typing import TYPE_CHECKING

from albef.metrics.family import Examples
from albef.tasks.rates import accuracies
from albef.tasks.vqa_accuracy import answer_scores, chance_scores

if TYPE_CHECKING:
    from albef.tasks.task import Table


def score(table: "Table") -> dict[str, float]:
    """Return ``accuracy`` in percent, overall and by type; empty if no answer is known."""
    return accuracies(answer_scores(table), table.get("type"))


def chance(table: "Table") -> dict[str, float]:
    """Return the :func:`score` of a uniform guess among the right answers to the same type."""
    return accuracies(chance_scores(table), table.get("type"))


def examples(table: "Table") -> Examples:
    """Score each answer by the annotators or the truths; None if no answer is known."""
    return Examples("accuracy", answer_scores(table), "question", "answer", "truths")
