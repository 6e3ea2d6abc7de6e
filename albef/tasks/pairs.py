"""Training on pairs, as retrieval and grounding do: ITC with every same-image entry a positive,
plus ITM with hard negatives of other images.

ALBEF, section 5; the temperature is not clamped here, as in the original.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from albef.config import Tunable, fixed
from albef.data.record import Record
from albef.losses.distill import ramp
from albef.losses.itc import contrast, same_image_targets
from albef.losses.itm import itm_loss
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.matching import match_pairs
from albef.models.momentum import MomentumTwin
from albef.models.queue import EMPTY, FeatureQueue
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Transform
from albef.tasks.ranking import MatchingTask, training_pairs
from albef.tasks.task import Batch, RunConfig, RunTask


class PairConfig(RunConfig):
    """Values of a training on pairs."""

    alpha: Tunable = 0.4
    """Weight of the twin in the contrastive targets."""
    queue_size: int = 65536
    """Pairs in the feature queue."""
    momentum: float = 0.995
    """Share of the twin that stays at each step."""
    image_size: int
    """Side of the square image, in pixels; position embeddings are resized to it."""
    max_tokens: int = 30
    """Longest caption, in tokens."""


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


class PairTask(MatchingTask, RunTask):
    """The training; what comes of it is up to the kind."""

    config: PairConfig
    itc: bool = True
    """Whether the contrastive loss is trained."""
    hard_negatives: bool = True
    """Whether ITM's negatives are drawn by similarity; else all are as likely."""

    def __init__(self, config: PairConfig, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(
            ALBEF(model, tokenizer.vocab_size),
            tokenizer,
            image_size=config.image_size,
            max_tokens=config.max_tokens,
        )
        self.config = config
        self.sizes = model
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.model_m = MomentumTwin(self.model)
        self.queue = FeatureQueue(config.queue_size, model.embed_dim)

    @classmethod
    def start(cls, config: PairConfig, init: Checkpoint) -> Self:
        """A task that starts from another's checkpoint.

        The model, its twin, the temperature and the ITM head are taken, and the features of a
        queue of the same size; its ids are those of another data set, so they count as empty.
        """
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        tensors = dict(init.tensors)
        if tensors["queue.ids"].shape != task.queue.ids.shape:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("queue.")}
        load_strict(
            task,
            tensors,
            where=str(init.folder),
            fresh=("queue.",),
            dropped=("mlm_head.", "mlm_head_m."),
        )
        task.queue.ids.fill_(EMPTY)
        return task

    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches."""
        return Collate(self.tokenizer, transform, self.config.max_tokens)

    def begin_step(self) -> None:
        """Update the twin; the student's forward, which the paper puts before, changes nothing."""
        self.model_m.update(self.model, self.config.momentum)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The two losses of a micro-batch of B pairs, and the twin's features."""
        model, twin = self.model, self.model_m.model
        mask, ids = batch["text_mask"], batch["image_id"]
        image_states = model.encode_image(batch["image"])
        text_states = model.encode_text(batch["ids"], mask)
        with torch.no_grad():
            image_feat_m = twin.image_feat(twin.encode_image(batch["image"]))
            text_feat_m = twin.text_feat(twin.encode_text(batch["ids"], mask))
        alpha = fixed(self.config.alpha) * ramp(epoch)
        itc = contrast(
            model.image_feat(image_states),
            model.text_feat(text_states),
            image_feat_m,
            text_feat_m,
            self.queue.image,
            self.queue.text,
            self.temperature,
            same_image_targets(ids, self.queue.ids),
            alpha,
        )
        size = len(ids)
        weight = 1.0 if self.hard_negatives else 0.0  # equal similarities draw uniformly
        pairs = match_pairs(
            model,
            self.itm_head,
            text_states,
            mask,
            model.fusion_encoder.image_key_values(image_states),
            itc.sim_i2t[:, :size] * weight,
            itc.sim_t2i[:, :size] * weight,
            ids[:, None] == ids[None, :],
        )
        itm = itm_loss(pairs.logits, pairs.labels, pairs.valid)
        return {
            "loss": itm + (itc.loss if self.itc else 0),
            "itc": itc.loss.detach(),
            "itm": itm.detach(),
            "temperature": self.temperature.detach(),
            "alpha": torch.full_like(itm.detach(), alpha),
            "image_feat_m": image_feat_m,
            "text_feat_m": text_feat_m,
            "image_id": ids,
        }

    def end_step(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Enqueue the twin's features and their image ids, of all micro-batches at once."""
        names = ("image_feat_m", "text_feat_m", "image_id")
        self.queue.enqueue(*(torch.cat([output[name] for output in outputs]) for name in names))
