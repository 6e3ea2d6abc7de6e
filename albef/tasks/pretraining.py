"""Pre-training: ITC, ITM with hard negatives, MLM, and momentum distillation (ALBEF, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from albef.config import Section
from albef.data.record import Record
from albef.losses.distill import ramp
from albef.losses.itc import contrast, one_hot_targets
from albef.losses.itm import itm_loss
from albef.losses.mlm import IGNORED, mlm_loss
from albef.models.albef import ALBEF, ModelConfig
from albef.models.matching import match_pairs
from albef.models.momentum import MomentumTwin
from albef.models.queue import FeatureQueue
from albef.models.start import StartConfig, start_image, start_text
from albef.models.text import MLMHead
from albef.preprocessing.text import TextTokenizer, mask_tokens
from albef.preprocessing.transforms import Transform
from albef.tasks.ranking import RankingTask, training_pairs
from albef.tasks.task import Batch, TrainingConfig

TEMPERATURE_BOUNDS = (0.001, 0.5)


class TokenizerConfig(Section):
    """Where the WordPiece vocabulary comes from."""

    source: str = "bert-base-uncased"
    """``corpus`` to train one on the captions, else a folder or a Hugging Face name."""
    vocab_size: int = 30522
    """Size of a trained vocabulary; a loaded one keeps its own."""


class Config(TrainingConfig):
    """Values of pre-training."""

    dataset: str
    """Name of the data set."""
    min_lr: float = 1e-5
    """Rate at the end of the schedule."""
    itc: bool = True
    """Whether to train the contrastive loss."""
    hard_negatives: bool = True
    """Whether ITM's negatives are drawn by similarity; false draws them uniformly."""
    alpha_itc: float = 0.4
    """Weight of the twin in the contrastive targets."""
    alpha_mlm: float = 0.4
    """Weight of the twin in masked language modelling."""
    mlm_probability: float = 0.15
    """Share of tokens masked."""
    queue_size: int = 65536
    """Pairs in the feature queue; 0 leaves the batch as the only candidates."""
    queue_from: float = 0.0
    """Epochs before the queue's candidates count. From random weights they are told from the
    batch by their age alone, which teaches nothing; the paper starts from trained encoders, at 0.
    """
    momentum: float = 0.995
    """Share of the twin that stays at each step."""
    temperature: float = 0.07
    """Where the learned temperature starts."""
    max_tokens: int = 25
    """Longest caption, in tokens."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The vocabulary."""
    model: ModelConfig
    """Sizes of the model."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the patches that the student does not see, other ones in each step, to be faster.
    The twin sees all, and so do the runs that start from here."""
    start: StartConfig | None = None
    """What the encoders start from; null is random weights."""


@dataclass(frozen=True)
class Collate:
    """Records to ``image``, ``ids``, ``text_mask``, masked ids, positions and labels."""

    tokenizer: TextTokenizer
    transform: Transform
    max_tokens: int
    mlm_probability: float

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """One caption a record, drawn at random; positions (B, M) are padded with 0."""
        image, ids, mask = training_pairs(
            records, rng, self.tokenizer, self.transform, self.max_tokens
        )
        masked, chosen = mask_tokens(ids, mask, self.tokenizer, self.mlm_probability, rng)
        width = max(1, int(chosen.sum(1).max()))
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
        held = np.take_along_axis(chosen, positions, 1)
        labels = np.where(held, np.take_along_axis(ids, positions, 1), IGNORED)
        return {
            "image": torch.from_numpy(image),
            "ids": torch.from_numpy(ids),
            "text_mask": torch.from_numpy(mask),
            "masked_ids": torch.from_numpy(masked),
            "mlm_positions": torch.from_numpy(np.where(held, positions, 0)),
            "mlm_labels": torch.from_numpy(labels),
        }


class Task(RankingTask):
    """The full objective; every tensor of its state is part of the checkpoint."""

    def __init__(self, config: Config, tokenizer: TextTokenizer) -> None:
        super().__init__(
            ALBEF(config.model, tokenizer.vocab_size),
            tokenizer,
            image_size=config.model.image.image_size,
            max_tokens=config.max_tokens,
        )
        self.config = config
        width = config.model.text.width
        self.mlm_head = MLMHead(width, tokenizer.vocab_size)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        if config.patch_dropout:
            self.model.image_encoder.drop_patches(config.patch_dropout)
        self.model_m = MomentumTwin(self.model)
        self.mlm_head_m = MomentumTwin(self.mlm_head)
        self.queue = FeatureQueue(config.queue_size, config.model.embed_dim)

    def take_start(self) -> dict[str, str]:
        """Take the start weights that the values name, into student and twin; their digests.

        Raises:
            CheckpointError: they cannot be found or do not fit.
        """
        start, digests = self.config.start, {}
        if start and start.image:
            digests["image"] = start_image(self.model, start.image)
        if start and start.text:
            digests["text"] = start_text(self.model, self.mlm_head, start.text)
        self.model_m.copy_from(self.model)
        self.mlm_head_m.copy_from(self.mlm_head)
        return digests

    def collate(self, transform: Transform) -> Collate:
        """The collate of training batches."""
        config = self.config
        return Collate(self.tokenizer, transform, config.max_tokens, config.mlm_probability)

    @torch.no_grad()
    def begin_step(self) -> None:
        """Clamp the temperature; update the twin, which is then used in this very step."""
        self.temperature.clamp_(*TEMPERATURE_BOUNDS)
        self.model_m.update(self.model, self.config.momentum)
        self.mlm_head_m.update(self.mlm_head, self.config.momentum)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The three losses of a micro-batch of B pairs, and the twin's features."""
        config, model, twin = self.config, self.model, self.model_m.model
        alpha_itc = config.alpha_itc * ramp(epoch)
        alpha_mlm = config.alpha_mlm * ramp(epoch)
        size = len(batch["image"])
        mask = batch["text_mask"]
        both_ids = torch.cat([batch["ids"], batch["masked_ids"]])
        both_mask = torch.cat([mask, mask])

        image_states = model.encode_image(batch["image"])
        text_states, masked_states = model.encode_text(both_ids, both_mask).split(size)
        image_feat, text_feat = model.image_feat(image_states), model.text_feat(text_states)
        with torch.no_grad():
            image_states_m = twin.encode_image(batch["image"])
            text_states_m, masked_states_m = twin.encode_text(both_ids, both_mask).split(size)
            image_feat_m = twin.image_feat(image_states_m)
            text_feat_m = twin.text_feat(text_states_m)

        queued = config.queue_size if epoch >= config.queue_from else 0
        itc = contrast(
            image_feat,
            text_feat,
            image_feat_m,
            text_feat_m,
            self.queue.image[:queued],
            self.queue.text[:queued],
            self.temperature,
            one_hot_targets(size, size + queued, image_feat.device),
            alpha_itc,
        )
        image = model.fusion_encoder.image_key_values(image_states)
        weight = 1.0 if config.hard_negatives else 0.0  # equal similarities draw uniformly
        own = torch.eye(size, dtype=torch.bool, device=image_feat.device)
        pairs = match_pairs(
            model,
            self.itm_head,
            text_states,
            mask,
            image,
            itc.sim_i2t[:, :size] * weight,
            itc.sim_t2i[:, :size] * weight,
            own,
        )
        itm = itm_loss(pairs.logits, pairs.labels, pairs.valid)

        labels = batch["mlm_labels"].flatten()
        positions = batch["mlm_positions"]
        fused = model.fuse(masked_states, mask, image, positions)
        logits = self.mlm_head(fused, model.text_encoder.embeddings.word_embeddings.weight)
        logits_m = None
        if alpha_mlm > 0:
            with torch.no_grad():
                image_m = twin.fusion_encoder.image_key_values(image_states_m)
                fused_m = twin.fuse(masked_states_m, mask, image_m, positions)
                table_m = twin.text_encoder.embeddings.word_embeddings.weight
                logits_m = self.mlm_head_m(fused_m, table_m).flatten(0, 1)
        mlm = mlm_loss(logits.flatten(0, 1), labels, logits_m, alpha_mlm)

        return {
            "loss": itm + mlm + (itc.loss if config.itc else 0),
            "itc": itc.loss.detach(),
            "itm": itm.detach(),
            "mlm": mlm.detach(),
            "temperature": self.temperature.detach(),
            "alpha": torch.full_like(itm.detach(), alpha_itc),
            "image_feat_m": image_feat_m,
            "text_feat_m": text_feat_m,
        }

    def end_step(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Enqueue the twin's features of all micro-batches at once."""
        image = torch.cat([output["image_feat_m"] for output in outputs])
        text = torch.cat([output["text_feat_m"] for output in outputs])
        self.queue.enqueue(image, text, torch.arange(len(image), device=image.device))
