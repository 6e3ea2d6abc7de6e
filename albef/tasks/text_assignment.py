"""Text assignment: does a text belong to the first of two images, the second, or neither?

One epoch of it on image-text pairs prepares the doubled fusion encoder for NLVR2 (ALBEF,
section 5). It has no momentum model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from albef.config import Count
from albef.data.record import Record
from albef.loading.reading import Batch, ImageTransform, Records
from albef.losses.itm import hard_negatives, itm_loss
from albef.models.albef import ALBEF, PairALBEF
from albef.tasks.captions import Collate
from albef.tasks.classification import ClassTask, RecordError
from albef.tasks.task import RunConfig

CLASSES = ("first", "second", "neither")
TEMPERATURE = 0.07
"""Divisor of the similarities that negatives are drawn by."""
NEITHER = 1 / 3
"""Share of texts that belong to neither image."""


class Config(RunConfig):
    """Values of a text assignment run."""

    max_tokens: Count = 25
    """Maximum length of a caption, in tokens."""


class Pairs(NamedTuple):
    """The two images of each text, by their indices in the batch; each field is (B,)."""

    first: Tensor
    second: Tensor
    label: Tensor
    """Index into :data:`CLASSES`."""
    valid: Tensor
    """False if the batch has too few other images."""


def draw_pairs(sim: Tensor, barred: Tensor, neither: Tensor, second: Tensor) -> Pairs:
    """Draw other images in proportion to ``softmax(sim)``, one or two for each text.

    Args:
        sim: (B, B) similarities of the images over temperature.
        barred: (B, B) bool, true if two images are the same.
        neither: (B,) bool, true if the text belongs to neither image.
        second: (B,) bool, true if it otherwise belongs to the second.
    """
    itself = torch.arange(len(sim), device=sim.device)
    other, has_other = hard_negatives(sim, barred)
    third, has_third = hard_negatives(sim, barred | (other[:, None] == itself))
    return Pairs(
        first=torch.where(neither | second, other, itself),
        second=torch.where(neither, third, torch.where(second, itself, other)),
        label=torch.where(neither, 2, second.long()),
        valid=has_other & (has_third | ~neither),
    )


class Task(ClassTask):
    """A doubled model and a linear head of three classes."""

    does = "decides which of two images a text describes, if any; NLVR2 starts from it"
    classes: ClassVar[tuple[str, ...]] = CLASSES
    images: ClassVar[int] = 2
    backbone: ClassVar[type[ALBEF]] = PairALBEF
    starts_from: ClassVar[tuple[str, ...]] = ("model.",)
    meta_columns = ("first", "second")

    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the cross-entropy of a micro-batch, whose images are each other's negatives."""
        model, ids = self.model, batch["image_id"]
        states = model.encode_image(batch["image"])
        with torch.no_grad():
            feat = model.image_feat(states.detach())
        random = torch.rand(2, len(ids), device=ids.device)
        pairs = draw_pairs(
            feat @ feat.t() / TEMPERATURE,
            ids[:, None] == ids[None, :],
            neither=random[0] <= NEITHER,
            second=random[1] <= 0.5,
        )
        both = states.index_select(0, torch.cat([pairs.first, pairs.second]))
        text_states = model.encode_text(batch["ids"], batch["text_mask"])
        image = model.fusion_encoder.image_key_values(both)
        logits = self.head(model.fused_cls(text_states, batch["text_mask"], image))
        return {"loss": itm_loss(logits, pairs.label, pairs.valid)}

    def questions(self, records: Records) -> "Questions":
        """Return each record with its first caption and two images of the split."""
        return Questions(records)


class Questions:
    """The records of a split with two of its images each.

    In the meta, ``first`` and ``second`` are the keys of the images, and ``label`` is the class of
    the first caption. A fixed seed draws class and images, so every model has the same questions.
    """

    def __init__(self, records: Records) -> None:
        rows = [replace(records[i], image=b"") for i in range(len(records))]
        if len({row.image_id for row in rows}) < 3:
            raise RecordError(
                f"split {rows[0].split} needs at least three different images for text_assignment"
            )
        rng = np.random.default_rng(0)
        self._records, self._rows = records, rows
        self._drawn = [_draw_question(rows, i, rng) for i in range(len(rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        *indices, label = self._drawn[index]
        first, second = (self._records[i] for i in indices)
        row = self._rows[index]
        meta = {"label": CLASSES[label], "first": first.key, "second": second.key}
        question = replace(row, image=first.image, more=(second.image,), meta=meta)
        return replace(question, captions=row.captions[:1])


def _draw_question(
    rows: Sequence[Record], index: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    others: list[int] = []
    while len(others) < 2:
        other = int(rng.integers(len(rows)))
        if rows[other].image_id not in {rows[i].image_id for i in (index, *others)}:
            others.append(other)
    label = int(rng.integers(len(CLASSES)))
    first, second = ((index, others[0]), (others[0], index), (others[0], others[1]))[label]
    return first, second, label
