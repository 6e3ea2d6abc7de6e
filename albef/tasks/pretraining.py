"""Pre-training: ITC, ITM with hard negatives, MLM, and momentum distillation (ALBEF, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from albef.config import Count, Section, Share, opt_in
from albef.data.record import Record
from albef.loading.reading import Batch, ImageTransform, Records
from albef.losses.distill import ramp
from albef.losses.mlm import IGNORED, mlm_loss
from albef.models.albef import ModelConfig, settled
from albef.models.matching import encode_texts, first_rank
from albef.models.momentum import MomentumModel
from albef.models.start import StartConfig, start_encoders, start_image, start_text
from albef.models.text import MLMHead, TextConfig
from albef.models.vision import ImageConfig
from albef.preprocessing.text import TextTokenizer, mask_tokens
from albef.tasks.captions import Collate as CaptionCollate
from albef.tasks.matching import EncodedPairs, MatchingConfig, MatchingTask, group_ids
from albef.tasks.rates import Validation, validate_ranking
from albef.tasks.task import Table, TrainingConfig

if TYPE_CHECKING:
    from albef.runtime.model import Model

TEMPERATURE_BOUNDS = (0.001, 0.5)


class TokenizerConfig(Section):
    """Source of the WordPiece vocabulary."""

    source: str = "bert-base-uncased"
    """``corpus`` trains a vocabulary on the captions. Otherwise a folder or a Hugging Face name to
    load one from."""
    vocab_size: Count = 30522
    """Size of a trained vocabulary; a loaded one keeps its size."""


class Config(MatchingConfig, TrainingConfig):
    """Values of pre-training."""

    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Learning rate at the end of the schedule."""
    itc: bool = True
    """If true, train the image-text contrastive loss (ITC)."""
    alpha_itc: Share = 0.4
    """Weight of the momentum model's predictions in the ITC targets."""
    mlm: bool = opt_in(True)
    """If true, train masked language modeling (MLM)."""
    alpha_mlm: Share = 0.4
    """Weight of the momentum model's predictions in masked language modeling (MLM)."""
    mlm_probability: Share = 0.15
    """Share of tokens that MLM masks."""
    masked_groups: tuple[tuple[str, ...], ...] = ()
    """Groups of words, each a token of the vocabulary. In three quarters of the captions with
    such words, only the words of one group are masked. The paper has no groups."""
    queue_from: Annotated[float, Field(ge=0)] = 0.0
    """Number of epochs before the queue's entries count as ITC candidates. If weights start at
    random, early queue entries differ from the batch only by their age, which teaches nothing. The
    paper starts from trained encoders and uses 0."""
    momentum: Share = 0.995
    """Share of the momentum model's weights that is kept at each step (EMA decay). With 0, there is
    no distillation, and the features of the batch itself are the candidates, as in CLIP."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Initial value of the learned temperature."""
    max_tokens: Count = 25
    """Maximum length of a caption, in tokens."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Vocabulary of the tokenizer."""
    model: ModelConfig
    """Sizes of the model."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of image patches that the student does not see, drawn anew in each step, for speed. The
    momentum model sees all patches unless the image encoder is frozen. Runs that start from this
    checkpoint see all patches too."""
    query_scale: Annotated[float, Field(gt=0)] = opt_in(1.0)
    """Factor of the initial weights of queries and keys in the first cross-attention. If they are
    random, their products hardly differ between images, and ``wpa`` learns nothing in the first
    steps. A factor of 2 shortens this. The paper has none."""
    start: StartConfig | None = None
    """Public weights that the encoders start from; null uses random weights."""

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        for name, own in (("image", ImageConfig), ("text", TextConfig)):
            is_own = isinstance(getattr(self.model, name), own)
            if self.start and getattr(self.start, name) and not is_own:
                raise ValueError(f"start.{name}: set model.{name}.pretrained instead")
        return self


@dataclass(frozen=True)
class Collate(CaptionCollate):
    """Collate that adds ``masked_ids`` (B, L), and positions and labels of masked tokens (B, M)."""

    mlm_probability: float = 0.0
    masked_groups: Sequence[Sequence[int]] = ()

    def __call__(self, records: Sequence[Record], rng: np.random.Generator) -> Batch:
        """Draw one caption per record at random and mask it; positions are padded with 0."""
        batch = super().__call__(records, rng)
        ids, mask = batch["ids"].numpy(), batch["text_mask"].numpy()
        draw = self.mlm_probability, rng, self.masked_groups
        masked, chosen = mask_tokens(ids, mask, self.tokenizer, *draw)
        width = max(1, int(chosen.sum(1).max()))
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
        is_masked = np.take_along_axis(chosen, positions, 1)
        labels = np.where(is_masked, np.take_along_axis(ids, positions, 1), IGNORED)
        del batch["image_id"]  # MLM pairs of one image may be each other's negatives.
        return batch | {
            "masked_ids": torch.from_numpy(masked),
            "mlm_positions": torch.from_numpy(np.where(is_masked, positions, 0)),
            "mlm_labels": torch.from_numpy(labels),
        }


class Task(MatchingTask):
    """The full objective; every tensor of its state is part of the checkpoint."""

    primary: ClassVar[str] = "r_mean"
    config: Config

    def __init__(self, config: Config, tokenizer: TextTokenizer) -> None:
        model = settled(config.model)
        super().__init__(config.model_copy(update={"model": model}), model, tokenizer)
        if config.query_scale != 1:
            self.model.fusion_encoder.scale_first_cross_attention(config.query_scale)
        words = self.model.text_encoder.words
        self.mlm_head = MLMHead(model.fused.width, *words.shape)
        if config.patch_dropout:
            self.model.image_encoder.drop_patches(config.patch_dropout)
        self.add_momentum_model(config.temperature)
        self.mlm_head_m = MomentumModel(self.mlm_head)
        self.train_itc(config.itc)
        self.train_itm(config.itm, config.mlm)
        if not config.mlm:
            self.mlm_head.requires_grad_(False)

    def load_start_weights(self) -> dict[str, str]:
        """Load the configured start weights and return their digests, by encoder.

        Raises:
            CheckpointError: the weights are missing or do not fit.
        """
        start, digests = self.config.start, {}
        if start and start.image:
            digests["image"] = start_image(self.model, start.image)
        if start and start.text:
            digests["text"] = start_text(self.model, self.mlm_head, start.text)
        digests |= start_encoders(self.model, self.sizes)
        self.model_m.copy_from(self.model)
        self.mlm_head_m.copy_from(self.mlm_head)
        return digests

    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches."""
        groups = group_ids(self.config.masked_groups, self.tokenizer, "masked_groups")
        return Collate(
            **vars(super().collate(transform)),
            mlm_probability=self.config.mlm_probability,
            masked_groups=groups,
        )

    @torch.no_grad()
    def begin_step(self) -> None:
        """Clamp the temperature; update the momentum models, which this step then uses."""
        self.temperature.clamp_(*TEMPERATURE_BOUNDS)
        super().begin_step()

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the three losses of a micro-batch of B pairs, and the momentum features."""
        config, model, model_m = self.config, self.model, self.model_m.model
        alpha_itc, alpha_mlm = (
            alpha * ramp(epoch) if config.momentum else 0.0
            for alpha in (config.alpha_itc, config.alpha_mlm)
        )
        size, mask = len(batch["image"]), batch["text_mask"]
        ids = [batch["ids"], *([batch["masked_ids"]] if config.mlm else [])]
        both_ids, both_mask = torch.cat(ids), mask.repeat(len(ids), 1)

        image_states = model.encode_image(batch["image"])
        text_states, *masked_states = model.encode_text(both_ids, both_mask).split(size)
        feats_m = None
        if config.momentum:
            with torch.no_grad():
                image_states_m = self.encode_image_m(batch["image"], image_states)
                text_states_m, *masked_states_m = model_m.encode_text(both_ids, both_mask).split(
                    size
                )
                feats_m = model_m.image_feat(image_states_m), model_m.text_feat(text_states_m)
        pairs = EncodedPairs(batch, image_states, text_states, feats_m)
        queued = config.queue_size if epoch >= config.queue_from else 0
        outputs, image = self.match(pairs, alpha_itc, queued)
        if not config.mlm:
            return outputs

        labels = batch["mlm_labels"].flatten()
        positions = batch["mlm_positions"]
        fused = model.fuse(masked_states[0], mask, image, positions)
        logits = self.mlm_head(fused, model.text_encoder.words)
        logits_m = None
        if alpha_mlm > 0:
            with torch.no_grad():
                image_m = model_m.fusion_encoder.image_key_values(image_states_m)
                fused_m = model_m.fuse(masked_states_m[0], mask, image_m, positions)
                table_m = model_m.text_encoder.words
                logits_m = self.mlm_head_m(fused_m, table_m).flatten(0, 1)
        mlm = mlm_loss(logits.flatten(0, 1), labels, logits_m, alpha_mlm)
        return outputs | {"loss": outputs["loss"] + mlm, "mlm": mlm.detach()}

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Rank texts for images and images for texts, by ITC alone.

        A row is a query: ``query`` ("i2t" or "t2i"), and the rank of the best right answer, from 0,
        as ``rank`` and ``rank_itc``. There is no export to use.
        """
        rows, image_feat, _ = self.embed_images(records, batch_size)
        ids, mask = self.texts([caption for row in rows for caption in row.captions])
        text_feat, _ = encode_texts(self.model, ids, mask, batch_size)
        with torch.autocast(self.device.type, enabled=False):
            sim = image_feat @ text_feat.t()
        owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.captions])
        image_ids = torch.tensor([row.image_id for row in rows])
        relevant = (image_ids[:, None] == image_ids[owner][None, :]).to(sim.device)
        ranks = torch.cat([first_rank(sim, relevant), first_rank(sim.t(), relevant.t())]).tolist()
        queries = ["i2t"] * len(rows) + ["t2i"] * len(owner)
        return {"query": queries, "rank": ranks, "rank_itc": ranks}

    def validate(self, table: Table) -> Validation:
        """Return the recalls of the queries."""
        return validate_ranking(table)
