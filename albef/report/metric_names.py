"""Display names of metrics and losses, and the order of metrics and splits.

A metric without a description is shown by its own name, after the others. Every metric is in
percent, and higher is better, as :meth:`albef.tasks.task.RunTask.score` requires.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

ALONE = {"itc_": "ITC alone", "itm_": "ITM alone"}
"""Prefixes of a metric of the ranking by one score alone, next to the final one."""


class Metric(NamedTuple):
    """Display of the metrics whose whole name matches a pattern.

    Groups of the pattern fill the braces of ``description``. A ``main`` metric is never collapsed.
    """

    pattern: str
    description: str
    main: bool = False


METRICS = (
    Metric(r"r_mean", "mean of the six recalls", main=True),
    Metric(r"accuracy", "correct answers", main=True),
    Metric(r"overall", "behavior tests passed", main=True),
    Metric(r"tr@1", "image to text, recall@1", main=True),
    Metric(r"tr@(\d+)", "image to text, recall@{}"),
    Metric(r"ir@1", "text to image, recall@1", main=True),
    Metric(r"ir@(\d+)", "text to image, recall@{}"),
    Metric(r"accuracy_(\w+)", "correct answers, {}"),
    Metric(r"map_accuracy", "correct boxes from the map alone"),
    Metric(r"map_iou", "mean IoU of the box around the hottest region"),
    Metric(r"zero_shot_accuracy", "zero-shot classes correct"),
    Metric(r"zero_shot_balanced_accuracy", "zero-shot classes correct, mean over classes"),
)
"""Metrics in the order of tables and figures."""
LOSSES = {
    "loss": "Loss",
    "itc": "ITC loss",
    "itm": "ITM loss",
    "mlm": "MLM loss",
    "wpa": "Word-patch alignment",
    "exchanged": "Share of negatives with exchanged words",
    "ranking": "Ranking loss of exchanged words",
    "lr": "Learning rate",
    "gradient_norm": "Gradient norm",
    "temperature": "Temperature",
    "alpha": "Weight of the momentum model",
}
"""Titles of the values that are logged by step."""


def plain(name: str) -> str:
    """Return the name of a metric without the prefix of a score alone."""
    prefix = next(filter(name.startswith, ALONE), "")
    return name.removeprefix(prefix)


def describe(name: str) -> str:
    """Return the description of a metric, or ""."""
    metric, groups = _find(name)
    return metric.description.format(*groups)


def label(name: str) -> str:
    """Return a metric or loss as a title."""
    alone = next((f", {words}" for prefix, words in ALONE.items() if name.startswith(prefix)), "")
    text = describe(plain(name))
    return LOSSES.get(name) or (text[:1].upper() + text[1:] or plain(name)) + alone


def is_main(name: str) -> bool:
    """Return whether a metric is a main one."""
    return _find(plain(name))[0].main


def order(name: str) -> tuple[bool, int, str, int]:
    """Return the sort key of a metric: as in :data:`METRICS`, then by name; a score alone last."""
    metric, _ = _find(plain(name))
    rank = METRICS.index(metric) if metric in METRICS else len(METRICS)
    stem = name.rstrip("0123456789")
    return name != plain(name), rank, stem, int(name[len(stem) :] or 0)


def split_order(name: str, params: Mapping[str, Any]) -> tuple[int, bool, str]:
    """Return the sort key of a split: as in ``evaluate.splits``, then test, then by name.

    A metrics file does not keep the order, and a run is judged by the first split.
    """
    evaluated = list(params.get("evaluate", {}).get("splits", ()))
    rank = evaluated.index(name) if name in evaluated else len(evaluated)
    return rank, name != "test", name


def _find(name: str) -> tuple[Metric, tuple[str, ...]]:
    for metric in METRICS:
        if match := re.fullmatch(metric.pattern, name):
            return metric, match.groups()
    return Metric("", ""), ()
