"""Pre-training: ITC, ITM with hard negatives, MLM, and momentum distillation (ALBEF, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from albef.config import Section
from albef.data.record import Record
from albef.loading.reading import Batch
from albef.losses.distill import ramp
from albef.losses.mlm import IGNORED, mlm_loss
from albef.models.albef import ModelConfig
from albef.models.momentum import MomentumTwin
from albef.models.start import StartConfig, start_image, start_text
from albef.models.text import MLMHead
from albef.preprocessing.text import TextTokenizer, mask_tokens
from albef.preprocessing.transforms import Transform
from albef.tasks.matching import Collate as CaptionCollate
from albef.tasks.matching import EncodedPairs, MatchingConfig, group_ids
from albef.tasks.ranking import RankingTask
from albef.tasks.task import TrainingConfig

TEMPERATURE_BOUNDS = (0.001, 0.5)


class TokenizerConfig(Section):
    """Where the WordPiece vocabulary comes from."""

    source: str = "bert-base-uncased"
    """``corpus`` to train one on the captions, else a folder or a Hugging Face name."""
    vocab_size: int = 30522
    """Size of a trained vocabulary; a loaded one keeps its own."""


class Config(MatchingConfig, TrainingConfig):
    """Values of pre-training."""

    dataset: str
    """Name of the data set."""
    min_lr: float = 1e-5
    """Rate at the end of the schedule."""
    itc: bool = True
    """Whether to train the contrastive loss."""
    alpha_itc: float = 0.4
    """Weight of the twin in the contrastive targets."""
    alpha_mlm: float = 0.4
    """Weight of the twin in masked language modelling."""
    mlm_probability: float = 0.15
    """Share of tokens masked."""
    masked_groups: tuple[tuple[str, ...], ...] = ()
    """Groups of words, each a token of the vocabulary. In half of the captions that have any, the
    words of one group are masked and nothing else; the paper has none."""
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
    The twin sees all, unless the encoder is frozen, and so do the runs that start from here."""
    start: StartConfig | None = None
    """What the encoders start from; null is random weights."""


@dataclass(frozen=True)
class Collate(CaptionCollate):
    """Also ``masked_ids`` (B, L), and positions and labels of masked tokens (B, M), padded."""

    mlm_probability: float = 0.0
    masked_groups: Sequence[Sequence[int]] = ()

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """One caption a record, drawn at random; positions are padded with 0."""
        batch = super().__call__(records, rng)
        ids, mask = batch["ids"].numpy(), batch["text_mask"].numpy()
        masked, chosen = mask_tokens(
            ids, mask, self.tokenizer, self.mlm_probability, rng, self.masked_groups
        )
        width = max(1, int(chosen.sum(1).max()))
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
        is_masked = np.take_along_axis(chosen, positions, 1)
        labels = np.where(is_masked, np.take_along_axis(ids, positions, 1), IGNORED)
        del batch["image_id"]  # pairs of one image are others' negatives
        return batch | {
            "masked_ids": torch.from_numpy(masked),
            "mlm_positions": torch.from_numpy(np.where(is_masked, positions, 0)),
            "mlm_labels": torch.from_numpy(labels),
        }


class Task(RankingTask):
    """The full objective; every tensor of its state is part of the checkpoint."""

    config: Config

    def __init__(self, config: Config, tokenizer: TextTokenizer) -> None:
        super().__init__(config, config.model, tokenizer)
        self.mlm_head = MLMHead(config.model.text.width, tokenizer.vocab_size)
        if config.patch_dropout:
            self.model.image_encoder.drop_patches(config.patch_dropout)
        self.add_twin(config.temperature)
        self.mlm_head_m = MomentumTwin(self.mlm_head)
        self.train_itc(config.itc)

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
        return Collate(
            self.tokenizer,
            transform,
            config.max_tokens,
            equal_texts=config.equal_texts,
            mlm_probability=config.mlm_probability,
            masked_groups=group_ids(config.masked_groups, self.tokenizer, "masked_groups"),
        )

    @torch.no_grad()
    def begin_step(self) -> None:
        """Clamp the temperature; update the twins, which are then used in this very step."""
        self.temperature.clamp_(*TEMPERATURE_BOUNDS)
        super().begin_step()

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The three losses of a micro-batch of B pairs, and the twin's features."""
        config, model, twin = self.config, self.model, self.model_m.model
        alpha_mlm = config.alpha_mlm * ramp(epoch)
        size, mask = len(batch["image"]), batch["text_mask"]
        both_ids = torch.cat([batch["ids"], batch["masked_ids"]])
        both_mask = torch.cat([mask, mask])

        image_states = model.encode_image(batch["image"])
        text_states, masked_states = model.encode_text(both_ids, both_mask).split(size)
        with torch.no_grad():
            image_states_m = self.encode_image_m(batch["image"], image_states)
            text_states_m, masked_states_m = twin.encode_text(both_ids, both_mask).split(size)
            feats_m = twin.image_feat(image_states_m), twin.text_feat(text_states_m)
        states = image_states, text_states, *feats_m
        pairs = EncodedPairs(batch["ids"], mask, *states, batch.get("text_id"))
        queued = config.queue_size if epoch >= config.queue_from else 0
        matched = self.match(pairs, config.alpha_itc * ramp(epoch), queued)

        labels = batch["mlm_labels"].flatten()
        positions = batch["mlm_positions"]
        fused = model.fuse(masked_states, mask, matched.image, positions)
        logits = self.mlm_head(fused, model.text_encoder.embeddings.word_embeddings.weight)
        logits_m = None
        if alpha_mlm > 0:
            with torch.no_grad():
                image_m = twin.fusion_encoder.image_key_values(image_states_m)
                fused_m = twin.fuse(masked_states_m, mask, image_m, positions)
                table_m = twin.text_encoder.embeddings.word_embeddings.weight
                logits_m = self.mlm_head_m(fused_m, table_m).flatten(0, 1)
        mlm = mlm_loss(logits.flatten(0, 1), labels, logits_m, alpha_mlm)
        return {"loss": matched.loss + mlm, **matched.outputs, "mlm": mlm.detach()}
