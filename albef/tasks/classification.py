"""Shared code of the kinds that classify a sentence about images (ALBEF, section 5).

A head reads the fused [CLS]. If the kind has a momentum model of the student and head, it softens
the targets. Shapes: B batch, I images of a record, L text tokens, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from albef.config import Count, fixed
from albef.data.record import Record
from albef.loading.reading import Batch, ImageTransform, Records
from albef.losses.distill import soft_targets
from albef.losses.itc import soft_cross_entropy
from albef.models.albef import ALBEF, ModelConfig, PairALBEF, resized
from albef.models.fusion import doubled
from albef.models.momentum import MomentumModel
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Evaluate
from albef.tasks.rates import Validation, accuracies
from albef.tasks.task import MAX_WORDS, MomentumConfig, RunTask, Table, extend, joined
from albef.tasks.temperature import BATCH, Judged, log_probabilities

if TYPE_CHECKING:
    from albef.runtime.model import Model


class ClassificationConfig(MomentumConfig):
    """Values of a run that classifies."""

    max_tokens: Count = 512
    """Maximum length of a sentence, in tokens."""


class RecordError(ValueError):
    """A record that does not fit the kind of run; the error message names it."""


@dataclass(frozen=True)
class Collate:
    """Collate of ``image`` (B, I, 3, S, S), ``ids``, ``text_mask`` (B, L) and ``label`` (B,)."""

    tokenizer: TextTokenizer
    transform: ImageTransform
    max_tokens: int
    classes: tuple[str, ...]
    images: int

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records; each image is augmented independently."""
        labels = [self.classes.index(label_of(record, self.classes)) for record in records]
        texts = [self.tokenizer.clean(sentence_of(record), MAX_WORDS) for record in records]
        ids, mask = self.tokenizer.encode(texts, self.max_tokens)
        return {
            "image": stacked(records, self.images, lambda one, key: self.transform(one, rng, key)),
            "ids": torch.from_numpy(ids),
            "text_mask": torch.from_numpy(mask),
            "label": torch.tensor(labels),
        }


class ClassTask(RunTask):
    """A model whose head classifies a sentence about I images, from the fused [CLS]."""

    primary: ClassVar[str] = "accuracy"
    metrics = "albef.metrics.accuracy"
    classes: ClassVar[tuple[str, ...]]
    images: ClassVar[int]
    backbone: ClassVar[type[ALBEF]] = ALBEF
    starts_from: ClassVar[tuple[str, ...]] = ("model.", "model_m.")
    """Prefixes of the tensors to take from a checkpoint of another kind; the head is new."""
    meta_columns: ClassVar[tuple[str, ...]] = ()
    """Fields of a question's meta that the predictions keep, in addition to ``label``."""

    def __init__(self, config: Any, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.model = self.backbone(model, tokenizer.vocab_size)
        self.model.freeze_projections()
        self.head = self.new_head(model.fused.width)

    def new_head(self, width: int) -> nn.Module:
        """Return the head, which maps states (B, D) to logits (B, C)."""
        return nn.Linear(width, len(self.classes))

    @classmethod
    def start(cls, config: Any, init: Checkpoint) -> Self:
        """Return a task that starts from a checkpoint: all of it, or :attr:`starts_from`."""
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        prefixes = ("model.", "model_m.", "head.", "head_m.")
        used = prefixes if init.kind == config.kind else cls.starts_from
        tensors = {n: t for n, t in init.tensors.items() if n.startswith(used)}
        if cls.backbone is PairALBEF:
            tensors = doubled(tensors, init.model.fused)
        new_prefixes = set(prefixes).difference(used)
        load_strict(task, tensors, where=str(init.folder), fresh=new_prefixes)
        return task

    def questions(self, records: Records) -> Records:
        """Return records with one sentence and I images each."""
        return records

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Predict each record: key, sentence, right and predicted class, probabilities (C)."""
        table: Table = {}

        def stack(rows: Sequence[Record], resize: Evaluate) -> Tensor:
            return stacked(rows, self.images, resize.pixels)

        for rows, image in self.read(self.questions(records), batch_size, model, stack):
            sentences = [sentence_of(record) for record in rows]
            if model is not None:
                images = zip(*(record.images for record in rows), strict=True)
                chances = model.probabilities(list(images), sentences)
            else:
                ids, mask = self.texts(sentences)
                batch = {"image": image, "ids": ids, "text_mask": mask}
                logits = class_logits(self.model, self.head, batch).float()
                chances = torch.softmax(logits, dim=1).cpu().numpy()
            columns = {
                "key": [record.key for record in rows],
                "sentence": sentences,
                "answer": [label_of(record, self.classes) for record in rows],
                "predicted": [self.classes[i] for i in chances.argmax(axis=1)],
                "probabilities": chances.tolist(),
                **{name: [record.meta[name] for record in rows] for name in self.meta_columns},
            }
            extend(table, columns)
        return joined(table)

    def judge(self, records: Records) -> Judged:
        """Return the classes of a split."""
        table = self.predict(records, BATCH)
        right = np.equal(table["answer"], table["predicted"]).astype(float)
        return Judged(log_probabilities(table["probabilities"]), right)

    def validate(self, table: Table) -> Validation:
        """Return the accuracy, also of each class, and that of a uniformly random class."""
        pairs = zip(table["answer"], table["predicted"], strict=True)
        right = [float(answer == predicted) for answer, predicted in pairs]
        return Validation(accuracies(right, table["answer"]), 100 / len(self.classes))


class ClassificationTask(ClassTask):
    """Two dense layers on the fused [CLS], with momentum models of the head and the model."""

    capability: ClassVar[str] = "classifying"

    def __init__(
        self, config: ClassificationConfig, model: ModelConfig, tokenizer: TextTokenizer
    ) -> None:
        super().__init__(config, model, tokenizer)
        self.model_m = MomentumModel(self.model)
        self.head_m = MomentumModel(self.head)

    def new_head(self, width: int) -> nn.Module:
        """Return the head: dense, ReLU, dense to C classes."""
        return nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(self.classes))
        )

    @classmethod
    def answer(cls, record: Record) -> str:
        """Return the record's class."""
        return label_of(record, cls.classes)

    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens, self.classes, self.images)

    def alpha(self, epoch: float) -> float:
        """Return the weight of the momentum model after ``epoch`` epochs."""
        return fixed(self.config.alpha)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the cross-entropy of a micro-batch to targets softened by the momentum model."""
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


def class_logits(model: ALBEF, head: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return logits (B, C) of ``image`` (B, I, 3, H, W), ``ids`` and ``text_mask`` (B, L)."""
    first_to_last = batch["image"].transpose(0, 1).flatten(0, 1)  # (I * B, 3, H, W)
    image = model.fusion_encoder.image_key_values(model.encode_image(first_to_last))
    states = model.encode_text(batch["ids"], batch["text_mask"])
    logits: Tensor = head(model.fused_cls(states, batch["text_mask"], image))
    return logits


def stacked(
    records: Sequence[Record], images: int, prepare: Callable[[bytes, str], NDArray[np.generic]]
) -> Tensor:
    """Stack I ``images`` of each of B records, each prepared independently: (B, I, 3, S, S).

    ``prepare`` makes (3, S, S) of an encoded image and its record's key.

    Raises:
        RecordError: a record has another number of images.
    """
    for record in records:
        if len(record.images) != images:
            raise RecordError(
                f"record {record.key} has {len(record.images)} images, but this kind needs "
                f"{images}; choose another dataset"
            )
    rows = [[prepare(image, record.key) for image in record.images] for record in records]
    return torch.from_numpy(np.stack(rows))


def sentence_of(record: Record) -> str:
    """Return the only sentence of a record; raise RecordError if it has none or several."""
    if len(record.captions) != 1:
        raise RecordError(
            f"record {record.key} has {len(record.captions)} captions; it needs one, the sentence"
        )
    return record.captions[0]


def label_of(record: Record, classes: tuple[str, ...]) -> str:
    """Return the class in a record's meta; raise RecordError if it is missing or unknown."""
    label = record.meta.get("label")
    if label not in classes:
        known = " or ".join(map(repr, classes))
        raise RecordError(f"record {record.key}: label in meta must be {known}, got {label!r}")
    return cast(str, label)
