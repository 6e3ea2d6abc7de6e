"""Visual entailment: does an image entail a sentence, contradict it, or leave it open?

ALBEF, section 5. Distillation starts with the first step, as in the original.
"""

from typing import TYPE_CHECKING, ClassVar

from albef.data.record import Record
from albef.loading.reading import Pairs, RecaptionedRecords, Records
from albef.tasks.classification import ClassificationConfig, ClassificationTask

if TYPE_CHECKING:
    from albef.runtime.model import Model

ENTAILED = "entailment"


class Config(ClassificationConfig):
    """Values of a visual entailment run."""


class Task(ClassificationTask):
    """Three classes; a record's sentence is its caption, its class is ``label`` in its meta."""

    does = "decides if an image entails a statement, contradicts it, or neither (`entail`)"
    capability = "entailing"
    classes: ClassVar[tuple[str, ...]] = ("contradiction", "neutral", ENTAILED)
    images: ClassVar[int] = 1
    judges = True

    @classmethod
    def claims(cls, record: Record) -> tuple[str, ...]:
        """Return the sentence if the image entails it."""
        return record.captions if cls.answer(record) == ENTAILED else ()

    def agreement(
        self, records: Records, pairs: Pairs, batch_size: int, model: "Model | None" = None
    ) -> list[float]:
        """Return the probability that the image entails each text."""
        table = self.predict(RecaptionedRecords(records, pairs), batch_size, model)
        return [row[self.classes.index(ENTAILED)] for row in table["probabilities"]]
