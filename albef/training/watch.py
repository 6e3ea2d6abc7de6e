"""Warnings of a training that learns nothing, while it can still be stopped."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)
LONG = 50
"""Points of a curve, one after the other, at which a loss is at its chance level for long."""
NEAR = 0.01
"""Share of the chance level within which a loss is at it."""
CLEAR = 1.1
"""Times chance that a metric has to reach to be above it."""


class Watch:
    """Losses against their chance levels, point by point.

    Args:
        chance: level of each watched loss for a model that guesses.
    """

    def __init__(self, chance: Mapping[str, float]) -> None:
        self._chance = chance
        self._points = dict.fromkeys(chance, 0)

    def point(self, step: int, means: Mapping[str, float]) -> None:
        """Take a point of the curves; a loss that has been at chance for long is told, once."""
        for name, level in self._chance.items():
            near = abs(means[name] - level) <= NEAR * level
            self._points[name] = self._points[name] + 1 if near else 0
            if self._points[name] == LONG:
                log.warning(
                    "%s is %.3f at step %d, as of a model that guesses, and has been for %d "
                    "points: if it stays there, look at the captions and at the learning rate",
                    name,
                    means[name],
                    step,
                    LONG,
                )


def at_chance(metrics: Mapping[str, float], chance: Mapping[str, float], name: str) -> bool:
    """Whether a metric is not clearly above what guessing gives, where that is known."""
    return name in chance and metrics[name] <= CLEAR * chance[name]
