"""The interface of a family of metrics, and the family of a kind.

Evaluation and later stages depend on this package. No training does, so that a new metric retrains
nothing.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from albef.tasks.task import RunTask, Table


class Examples(NamedTuple):
    """Per-example scores of a table of predictions, and the roles of its columns.

    Each row has ``key``, that of its record. The report draws columns of a ranking (``query``,
    ``rank``, ``top``, ...) and of boxes (``box``, ``iou``, ``heat``, ...) for every kind.
    """

    metric: str
    """Name of a metric of :meth:`Family.score`: the mean of the per-example scores, in percent."""
    scores: Sequence[float | None]
    """Score of each row, from 0, wrong, to 1, right; None if the true answer is not known."""
    question: str = ""
    """Column of the question, or "" if the image is the whole input."""
    given: str = ""
    """Column of the model's answer."""
    truth: str = ""
    """Column of the right answer, or of a list of them; "" if the records hold it."""
    pictures: tuple[str, ...] = ("key",)
    """Columns with the keys of the images that the model saw."""
    strata: str = ""
    """Column of groups whose mean scores have equal weight; "" for a mean over all rows."""
    right: float = 0.5
    """Score from which an answer counts as right when two models are compared."""


class Family(Protocol):
    """The functions of a module of this package; all are pure."""

    def score(self, table: "Table") -> dict[str, float]:
        """Return the metrics of predictions by name, in percent; higher is better."""

    def chance(self, table: "Table") -> dict[str, float]:
        """Return the expected score of guessing on the same examples, by metric name."""

    def examples(self, table: "Table") -> Examples:
        """Return the scores of the rows and the roles of the columns."""


def family_of(kind: "type[RunTask]") -> Family:
    """Return the family that scores the predictions of a kind."""
    return cast(Family, importlib.import_module(kind.metrics))
