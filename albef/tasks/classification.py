"""What the kinds that put a sentence about pictures into a class share (ALBEF, section 5).

A two-layer MLP reads the fused [CLS]; the twin holds all of the student, head included, and its
predictions soften the targets. Shapes: B batch, I images of a record, L text tokens, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from albef.config import Tunable, fixed
from albef.data.record import Record
from albef.losses.distill import soft_targets
from albef.losses.itc import soft_cross_entropy
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.momentum import MomentumTwin
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import Evaluate, Transform
from albef.tasks.ranking import MAX_WORDS
from albef.tasks.task import (
    Batch,
    Examples,
    Pairs,
    Records,
    RunConfig,
    RunTask,
    Table,
    batches,
    to_device,
)

if TYPE_CHECKING:
    from albef.runtime.model import Model


class ClassificationConfig(RunConfig):
    """Values of a run that classifies."""

    alpha: Tunable
    """Weight of the twin in the targets."""
    momentum: float
    """Share of the twin that stays at each step."""
    image_size: int
    """Side of the square image, in pixels; position embeddings are resized to it."""
    max_tokens: int
    """Longest sentence, in tokens."""


class RecordError(ValueError):
    """A record that does not fit the kind of run; its text names it."""


@dataclass(frozen=True)
class Collate:
    """Records to ``image`` (B, I, 3, S, S), ``ids``, ``text_mask`` and ``label``."""

    tokenizer: TextTokenizer
    transform: Transform
    max_tokens: int
    classes: tuple[str, ...]
    images: int

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records; each image is augmented on its own."""
        labels = [self.classes.index(label_of(record, self.classes)) for record in records]
        return {
            "image": stacked(records, self.images, lambda one, key: self.transform(one, rng, key)),
            **encoded([sentence_of(r) for r in records], self.tokenizer, self.max_tokens),
            "label": torch.tensor(labels),
        }


class ClassificationTask(RunTask):
    """A model with an MLP on the fused [CLS], and a twin of both.

    Attributes:
        classes: names of the classes, in the order of the logits.
        images: how many images a record has.
        model: the student.
        head: dense, ReLU, dense to C classes.
    """

    primary: ClassVar[str] = "accuracy"
    surface: ClassVar[str] = "classifying"
    classes: ClassVar[tuple[str, ...]]
    images: ClassVar[int]
    backbone: ClassVar[type[ALBEF]] = ALBEF

    def __init__(
        self, config: ClassificationConfig, model: ModelConfig, tokenizer: TextTokenizer
    ) -> None:
        super().__init__()
        self.config = config
        self.sizes = model
        self.tokenizer = tokenizer
        self.image_size = config.image_size
        self.resize = Evaluate(config.image_size)
        self.model = self.backbone(model, tokenizer.vocab_size)
        for unread in (self.model.image_proj, self.model.text_proj):
            unread.requires_grad_(False)
        self.head = mlp(model.text.width, len(self.classes))
        self.model_m = MomentumTwin(self.model)
        self.head_m = MomentumTwin(self.head)

    @classmethod
    def start(cls, config: Any, init: Checkpoint) -> Self:
        """A task that takes model and twin from another's checkpoint; the head is new."""
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        load_strict(
            task,
            {n: t for n, t in init.tensors.items() if n.startswith(("model.", "model_m."))},
            where=str(init.folder),
            fresh=("head.", "head_m."),
        )
        return task

    @classmethod
    def answer(cls, record: Record) -> str:
        """The record's class."""
        return label_of(record, cls.classes)

    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens, self.classes, self.images)

    def begin_step(self) -> None:
        """Update the twin; the student's forward, which the paper puts before, changes nothing."""
        self.model_m.update(self.model, self.config.momentum)
        self.head_m.update(self.head, self.config.momentum)

    def alpha(self, epoch: float) -> float:
        """Weight of the twin after ``epoch`` epochs."""
        return fixed(self.config.alpha)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Cross-entropy of a micro-batch to targets softened by the twin."""
        logits = class_logits(self.model, self.head, batch).float()
        label = batch["label"]
        classes = torch.arange(len(self.classes), device=label.device)
        targets = (label[:, None] == classes).float()
        alpha = self.alpha(epoch)
        if alpha > 0:
            with torch.no_grad():
                logits_m = class_logits(self.model_m.model, self.head_m.model, batch)
            targets = soft_targets(targets, logits_m, alpha)
        loss = soft_cross_entropy(logits, targets)
        return {"loss": loss, "alpha": torch.full_like(loss.detach(), alpha)}

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """A row for each record: key, sentence, right and predicted class, probabilities (C)."""
        device = self.model.image_proj.weight.device
        rows, chances = [], []
        for part in batches(records, batch_size):
            sentences = [sentence_of(record) for record in part]
            if model is not None:
                images = list(zip(*(record.images for record in part), strict=True))
                chances += model.probabilities(images, sentences).tolist()
            else:
                batch = {
                    "image": stacked(part, self.images, self.resize),
                    **encoded(sentences, self.tokenizer, self.config.max_tokens),
                }
                logits = class_logits(self.model, self.head, to_device(batch, device)).float()
                chances += torch.softmax(logits, dim=1).tolist()
            rows += [replace(record, image=b"", more=()) for record in part]
        return classified(rows, chances, self.classes)

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """A class is right or wrong."""
        return class_examples(table)

    def score(self, table: Table) -> dict[str, float]:
        """Accuracy over all and, as ``accuracy_CLASS``, over the records of each class."""
        return accuracies(table)

    def chance(self, table: Table) -> dict[str, float]:
        """:meth:`score` of a class drawn evenly."""
        return dict.fromkeys(accuracies(table), 100 / len(self.classes))


class Retold:
    """Records of a split with other sentences.

    Args:
        records: of the split.
        pairs: which of them, and the sentence of each.
    """

    def __init__(self, records: Records, pairs: Pairs) -> None:
        self._records, self._pairs = records, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        place, text = self._pairs[index]
        return replace(self._records[place], captions=(text,))


def classified(
    rows: Sequence[Record], chances: Sequence[Sequence[float]], classes: tuple[str, ...]
) -> Table:
    """The table of :meth:`ClassificationTask.predict`: records, and probabilities (C) of each."""
    return {
        "key": [row.key for row in rows],
        "sentence": [sentence_of(row) for row in rows],
        "answer": [label_of(row, classes) for row in rows],
        "predicted": [classes[int(np.argmax(own))] for own in chances],
        "probabilities": [list(own) for own in chances],
    }


def class_examples(table: Table, pictures: tuple[str, ...] = ("key",)) -> Examples:
    """Credit of ``predicted`` against ``answer``."""
    pairs = zip(table["answer"], table["predicted"], strict=True)
    right = [float(answer == predicted) for answer, predicted in pairs]
    return Examples("accuracy", right, "sentence", "predicted", "answer", pictures)


def mlp(width: int, classes: int) -> nn.Sequential:
    """The head: (B, D) to logits (B, C)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def class_logits(model: ALBEF, head: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (B, C) of ``image`` (B, I, 3, H, W), ``ids`` and ``text_mask`` (B, L)."""
    first_to_last = batch["image"].transpose(0, 1).flatten(0, 1)  # (I * B, 3, H, W)
    image = model.fusion_encoder.image_key_values(model.encode_image(first_to_last))
    states = model.encode_text(batch["ids"], batch["text_mask"])
    logits: Tensor = head(model.fused_cls(states, batch["text_mask"], image))
    return logits


def accuracies(table: Table) -> dict[str, float]:
    """``accuracy`` of ``predicted`` against ``answer``, and ``accuracy_CLASS``, in percent."""
    answer, predicted = np.array(table["answer"]), np.array(table["predicted"])
    right = 100.0 * (answer == predicted)
    by_class = {name: right[answer == name] for name in sorted(set(table["answer"]))}
    return {"accuracy": float(right.mean())} | {
        f"accuracy_{name}": float(part.mean()) for name, part in by_class.items()
    }


def stacked(
    records: Sequence[Record], images: int, prepare: Callable[[bytes, str], NDArray[np.generic]]
) -> Tensor:
    """The images of the records, each prepared on its own: (B, I, 3, S, S).

    Args:
        records: B of them.
        images: I, how many each must have.
        prepare: an encoded image and its record's key to (3, S, S).

    Raises:
        RecordError: a record has another number of images.
    """
    for record in records:
        if len(record.images) != images:
            raise RecordError(
                f"record {record.key} has {len(record.images)} images, and the kind of run reads "
                f"{images} of each: choose another data set"
            )
    return torch.from_numpy(
        np.stack([[prepare(one, record.key) for one in record.images] for record in records])
    )


def encoded(
    sentences: Sequence[str], tokenizer: TextTokenizer, max_tokens: int
) -> dict[str, Tensor]:
    """Cleaned and tokenised sentences as ``ids`` and ``text_mask``, both (B, L)."""
    ids, mask = tokenizer.encode([clean_caption(text, MAX_WORDS) for text in sentences], max_tokens)
    return {"ids": torch.from_numpy(ids), "text_mask": torch.from_numpy(mask)}


def sentence_of(record: Record) -> str:
    """The one sentence of a record.

    Raises:
        RecordError: it has none or several.
    """
    if len(record.captions) != 1:
        raise RecordError(
            f"record {record.key} has {len(record.captions)} captions; give it one, the sentence"
        )
    return record.captions[0]


def label_of(record: Record, classes: tuple[str, ...]) -> str:
    """The class that a record's meta names.

    Raises:
        RecordError: it names none, or one that is not known.
    """
    label = record.meta.get("label")
    if label not in classes:
        said = f"label {label!r}" if "label" in record.meta else "no label"
        raise RecordError(
            f"record {record.key} has {said}; in meta, label must be "
            + " or ".join(map(repr, classes))
        )
    return cast(str, label)
