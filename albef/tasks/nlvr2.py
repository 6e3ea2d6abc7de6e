"""NLVR2: is a sentence true of two images? (ALBEF, section 5).

It starts from text assignment, or from pre-training, whose fusion layers are then doubled.
"""

from typing import Any, ClassVar, Self

from albef.config import fixed
from albef.losses.distill import ramp
from albef.models.albef import ALBEF, PairALBEF
from albef.models.weights import Checkpoint
from albef.tasks.classification import ClassificationConfig, ClassificationTask


class Config(ClassificationConfig):
    """Values of an NLVR2 run."""


class Task(ClassificationTask):
    """Two classes; a record has two images, and its class is ``label`` in its meta."""

    does = "decides if a statement is true of two images together (`compare`)"
    capability = "comparing"
    classes: ClassVar[tuple[str, ...]] = ("False", "True")
    images: ClassVar[int] = 2
    backbone: ClassVar[type[ALBEF]] = PairALBEF
    starts_from: ClassVar[tuple[str, ...]] = ("model.",)

    @classmethod
    def start(cls, config: Any, init: Checkpoint) -> Self:
        """Return a task that starts from another task's checkpoint.

        If it is of another kind, the momentum model is copied from the student: text assignment has
        none, and a random one would add noise to the targets for hundreds of steps.
        """
        task = super().start(config, init)
        if init.kind != config.kind:
            task.model_m.copy_from(task.model)
        return task

    def alpha(self, epoch: float) -> float:
        """Return the weight of the momentum model, which rises over the first epoch."""
        return fixed(self.config.alpha) * ramp(epoch)
