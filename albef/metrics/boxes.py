"""Metrics of boxes. A box is right if its IoU with the true box is at least 0.5."""

from typing import TYPE_CHECKING

import numpy as np

from albef.data.boxes import MIN_IOU, recall
from albef.metrics.family import Examples
from albef.tasks.rates import accuracies

if TYPE_CHECKING:
    from albef.tasks.task import Table


def score(table: "Table") -> dict[str, float]:
    """Return the metrics of the boxes, in percent.

    ``accuracy`` is that of the chosen boxes, also by kind of expression. ``map_accuracy`` and
    ``map_iou`` are the accuracy and mean IoU of the maps' boxes.
    """
    return accuracies(examples(table).scores, table["type"]) | {
        "map_accuracy": recall(table["map_iou"]),
        "map_iou": 100.0 * float(np.mean(table["map_iou"])),
    }


def chance(table: "Table") -> dict[str, float]:
    """Return the expected accuracy of a random proposal."""
    return accuracies(table["share"], table["type"])


def examples(table: "Table") -> Examples:
    """Score a box 1 if it is right, else 0."""
    right = [float(value >= MIN_IOU) for value in table["iou"]]
    return Examples("accuracy", right, question="expression")
