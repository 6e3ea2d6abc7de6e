"""Text assignment: does a text belong to the first of two pictures, the second, or neither?

One epoch of it, on image-text pairs, prepares the doubled fusion encoder for NLVR2 (ALBEF,
section 5). There is no twin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from albef.data.record import Record
from albef.losses.itm import hard_negatives
from albef.models.albef import ModelConfig, resized
from albef.models.pair import PairALBEF, doubled
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Evaluate, Transform
from albef.tasks.classification import (
    RecordError,
    accuracies,
    class_examples,
    class_logits,
    encoded,
    stacked,
)
from albef.tasks.ranking import training_pairs
from albef.tasks.task import Batch, Examples, Records, RunConfig, RunTask, Table, to_device

if TYPE_CHECKING:
    from albef.runtime.model import Model

CLASSES = ("first", "second", "neither")
TEMPERATURE = 0.07
"""Divides the similarities that negatives are drawn by."""
NEITHER = 1 / 3
"""Share of texts that belong to neither picture."""


class Config(RunConfig):
    """Values of a text assignment run."""

    image_size: int
    """Side of the square image, in pixels; position embeddings are resized to it."""
    max_tokens: int
    """Longest caption, in tokens."""


class Pairs(NamedTuple):
    """The two pictures of each text; P = B."""

    first: Tensor
    """(B,) index of the first image in the batch."""
    second: Tensor
    """(B,) index of the second."""
    label: Tensor
    """(B,) index into :data:`CLASSES`."""
    valid: Tensor
    """(B,) bool; false where the batch has too few other images."""


def draw_pairs(sim: Tensor, barred: Tensor, neither: Tensor, second: Tensor) -> Pairs:
    """Draw other images in proportion to ``softmax(sim)``, one for each text or two.

    Args:
        sim: (B, B) similarities of the images over temperature.
        barred: (B, B) bool, true where two images are the same.
        neither: (B,) bool, true where the text is to belong to neither image.
        second: (B,) bool, true where else it is to belong to the second.
    """
    own = torch.arange(len(sim), device=sim.device)
    other, has_other = hard_negatives(sim, barred)
    third, has_third = hard_negatives(sim, barred | (other[:, None] == own))
    return Pairs(
        first=torch.where(neither | second, other, own),
        second=torch.where(neither, third, torch.where(second, own, other)),
        label=torch.where(neither, 2, second.long()),
        valid=has_other & (has_third | ~neither),
    )


@dataclass(frozen=True)
class Collate:
    """Records to ``image``, ``ids``, ``text_mask`` and ``image_id``; one caption drawn a record."""

    tokenizer: TextTokenizer
    transform: Transform
    max_tokens: int

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Stack the records."""
        image, ids, mask = training_pairs(
            records, rng, self.tokenizer, self.transform, self.max_tokens
        )
        return {
            "image": torch.from_numpy(image),
            "ids": torch.from_numpy(ids),
            "text_mask": torch.from_numpy(mask),
            "image_id": torch.tensor([record.image_id for record in records]),
        }


class Task(RunTask):
    """A doubled model and a linear head of three classes."""

    primary: ClassVar[str] = "accuracy"
    does = "tells to which of two pictures a text belongs, if to any; it is a start for NLVR2"

    def __init__(self, config: Config, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.config = config
        self.sizes = model
        self.tokenizer = tokenizer
        self.image_size = config.image_size
        self.resize = Evaluate(config.image_size)
        self.model = PairALBEF(model, tokenizer.vocab_size)
        for fixed in (self.model.image_proj, self.model.text_proj):
            fixed.requires_grad_(False)
        self.head = nn.Linear(model.text.width, len(CLASSES))

    @classmethod
    def start(cls, config: Config, init: Checkpoint) -> Self:
        """A task that takes the model of another's checkpoint, fusion layers doubled."""
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        load_strict(
            task,
            doubled({n: t for n, t in init.tensors.items() if n.startswith("model.")}, init.model),
            where=str(init.folder),
            fresh=("head.",),
        )
        return task

    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Cross-entropy of a micro-batch, whose images are each other's negatives."""
        model, ids = self.model, batch["image_id"]
        states = model.encode_image(batch["image"])
        with torch.no_grad():
            feat = model.image_feat(states)
        drawn = torch.rand(2, len(ids), device=ids.device)
        pairs = draw_pairs(
            feat @ feat.t() / TEMPERATURE,
            ids[:, None] == ids[None, :],
            neither=drawn[0] <= NEITHER,
            second=drawn[1] <= 0.5,
        )
        both = states.index_select(0, torch.cat([pairs.first, pairs.second]))
        text_states = model.encode_text(batch["ids"], batch["text_mask"])
        image = model.fusion_encoder.image_key_values(both)
        logits = self.head(model.fused_cls(text_states, batch["text_mask"], image)).float()
        losses = F.cross_entropy(logits, pairs.label, reduction="none")
        return {"loss": (losses * pairs.valid).sum() / pairs.valid.sum().clamp(min=1)}

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """A row for each record, with its first caption and pictures of the split.

        Whether the text belongs to the first picture, the second or neither, and the other
        pictures, are drawn from a seed of their own: every model answers the same questions.
        """
        rows = [replace(records[i], image=b"") for i in range(len(records))]
        if len({row.image_id for row in rows}) < 3:
            raise RecordError(
                f"split {rows[0].split} has fewer than three different pictures, too few to ask "
                "to which of two a text belongs"
            )
        rng = np.random.default_rng(0)
        device = self.head.weight.device
        table: Table = {"key": [], "sentence": [], "answer": [], "predicted": []}
        table |= {"probabilities": [], "first": [], "second": []}
        for start in range(0, len(rows), batch_size):
            part = range(start, min(start + batch_size, len(rows)))
            asked = [_question(rows, i, rng) for i in part]
            shown = [
                replace(records[first], more=(records[second].image,)) for first, second, _ in asked
            ]
            sentences = [rows[i].captions[0] for i in part]
            batch = {
                "image": stacked(shown, 2, self.resize),
                **encoded(sentences, self.tokenizer, self.config.max_tokens),
            }
            logits = class_logits(self.model, self.head, to_device(batch, device)).float()
            chances = torch.softmax(logits, dim=1)
            table["key"] += [rows[i].key for i in part]
            table["sentence"] += sentences
            table["answer"] += [CLASSES[label] for _, _, label in asked]
            table["predicted"] += [CLASSES[i] for i in chances.argmax(dim=1).tolist()]
            table["probabilities"] += chances.tolist()
            table["first"] += [rows[first].key for first, _, _ in asked]
            table["second"] += [rows[second].key for _, second, _ in asked]
        return table

    @classmethod
    def examples(cls, table: Table) -> Examples:
        """A class is right or wrong, of two pictures."""
        return class_examples(table, pictures=("first", "second"))

    def score(self, table: Table) -> dict[str, float]:
        """Accuracy over all and, as ``accuracy_CLASS``, over the texts of each class."""
        return accuracies(table)

    def chance(self, table: Table) -> dict[str, float]:
        """:meth:`score` of a class drawn evenly."""
        return dict.fromkeys(accuracies(table), 100 / len(CLASSES))


def _question(rows: Sequence[Record], own: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Places of the two pictures shown with a record's text, and the right class."""
    others: list[int] = []
    while len(others) < 2:
        other = int(rng.integers(len(rows)))
        if rows[other].image_id not in {rows[i].image_id for i in (own, *others)}:
            others.append(other)
    label = int(rng.integers(len(CLASSES)))
    first, second = ((own, others[0]), (others[0], own), (others[0], others[1]))[label]
    return first, second, label
