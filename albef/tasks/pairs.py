"""Training on pairs, as retrieval and grounding do: ITC with every same-image entry a positive,
plus ITM with hard negatives of other images.

ALBEF, section 5; the temperature is not clamped here, as in the original.
"""

from typing import Self

import torch
from torch import Tensor

from albef.config import fixed
from albef.loading.reading import Batch
from albef.losses.distill import ramp
from albef.losses.itc import equal_ids, same_image_targets
from albef.models.albef import ModelConfig, resized
from albef.models.momentum import EMPTY
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Transform
from albef.tasks.ranking import Collate, MatchingConfig, MatchingTask
from albef.tasks.task import RunTask, TwinConfig


class PairConfig(MatchingConfig, TwinConfig):
    """Values of a training on pairs."""


class PairTask(MatchingTask, RunTask):
    """The training; what comes of it is up to the kind."""

    itc: bool = True
    """Whether the contrastive loss is trained."""

    def __init__(self, config: PairConfig, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.hard_negatives = config.hard_negatives
        self.add_twin(temperature=0.07, ids=1 + config.equal_texts)

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
        tokens, equal_texts = self.config.max_tokens, self.config.equal_texts
        return Collate(self.tokenizer, transform, tokens, equal_texts=equal_texts)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The two losses of a micro-batch of B pairs, and the twin's features."""
        model, twin = self.model, self.model_m.model
        mask, ids = batch["text_mask"], batch["image_id"]
        if "text_id" in batch:
            ids = torch.stack([ids, batch["text_id"]], dim=1)
        image_states = model.encode_image(batch["image"])
        text_states = model.encode_text(batch["ids"], mask)
        with torch.no_grad():
            image_feat_m = twin.image_feat(twin.encode_image(batch["image"]))
            text_feat_m = twin.text_feat(twin.encode_text(batch["ids"], mask))
        matched = self.match(
            image_states,
            text_states,
            mask,
            (image_feat_m, text_feat_m),
            same_image_targets(ids, self.queue.ids),
            fixed(self.config.alpha) * ramp(epoch),
            barred=equal_ids(ids, ids),
        )
        loss = matched.itm + (matched.itc if self.itc else 0)
        return {"loss": loss, **matched.outputs, "pair_id": ids}
