"""Visual entailment: does a picture entail a sentence, contradict it, or leave it open?

ALBEF, section 5; distilled from the first step on, as in the original.
"""

from typing import ClassVar

from albef.tasks.classification import ClassificationConfig, ClassificationTask


class Config(ClassificationConfig):
    """Values of a visual entailment run."""


class Task(ClassificationTask):
    """Three classes; a record's sentence is its caption, its class is ``label`` in its meta."""

    classes: ClassVar[tuple[str, ...]] = ("contradiction", "neutral", "entailment")
    images: ClassVar[int] = 1
