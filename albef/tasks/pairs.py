"""Training on pairs of an image and a text, as in retrieval and grounding (ALBEF, section 5)."""

from typing import Self

import torch
from torch import Tensor

from albef.config import fixed
from albef.loading.reading import Batch
from albef.losses.distill import ramp
from albef.models.albef import ModelConfig, resized
from albef.models.momentum import EMPTY
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.tasks.matching import EncodedPairs, MatchingConfig, MatchingTask
from albef.tasks.task import MomentumConfig, RunTask


class PairConfig(MatchingConfig, MomentumConfig):
    """Values of a training on pairs."""


class PairTask(MatchingTask, RunTask):
    """ITC and ITM of pairs (ALBEF, section 5).

    Every entry of the same image is a positive. As in the original, the temperature is not clamped.
    """

    # With a negative image for each, more true short captions are refused; with none, more false
    # ones accepted.
    itm_negative_images = 0.5
    # It saves padding. In pre-training, left and right were then not learned under some seeds.
    itm_equal_rank = True

    def __init__(self, config: PairConfig, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.add_momentum_model(temperature=0.07)
        self.train_itm(config.itm)

    @classmethod
    def start(cls, config: PairConfig, init: Checkpoint) -> Self:
        """Return a task that starts from another task's checkpoint.

        It takes all but the MLM head, and the queue only if its size is equal. The queue's ids are
        marked as empty, since they belong to another dataset.
        """
        task = cls(config, resized(init.model, config.image_size), init.tokenizer)
        tensors = dict(init.tensors)
        ids = tensors.get("queue.ids")
        if ids is None or ids.shape != task.queue.ids.shape:
            tensors = {name: t for name, t in tensors.items() if not name.startswith("queue.")}
        fresh, dropped = ("queue.", "itc_bias"), ("mlm_head.", "mlm_head_m.", "itc_bias")
        load_strict(task, tensors, where=str(init.folder), fresh=fresh, dropped=dropped)
        task.queue.ids.fill_(EMPTY)
        return task

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the two losses of a micro-batch of B pairs, and the momentum features."""
        model, model_m = self.model, self.model_m.model
        mask = batch["text_mask"]
        image_states = model.encode_image(batch["image"])
        text_states = model.encode_text(batch["ids"], mask)
        if not self.config.momentum:
            return self.match(EncodedPairs(batch, image_states, text_states, None), 0.0)[0]
        with torch.no_grad():
            image_feat_m = model_m.image_feat(self.encode_image_m(batch["image"], image_states))
            text_feat_m = model_m.text_feat(model_m.encode_text(batch["ids"], mask))
        pairs = EncodedPairs(batch, image_states, text_states, (image_feat_m, text_feat_m))
        return self.match(pairs, fixed(self.config.alpha) * ramp(epoch))[0]
