"""Matching of images with texts: the model, and ITC and ITM of a batch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from albef.config import CountOrZero, Section, Share, opt_in
from albef.data.record import Record
from albef.distributed import world
from albef.loading.reading import Batch, ImageTransform, Records
from albef.losses.itc import (
    ItcOutput,
    describes,
    itc_loss,
    one_hot_targets,
    same_image_targets,
)
from albef.losses.itm import hard_negative_indices, itm_loss, ranking_loss
from albef.losses.wpa import wpa_loss
from albef.models.albef import ALBEF, ModelConfig
from albef.models.kernels import KeyValue, select
from albef.models.matching import Matches, match_pairs
from albef.models.momentum import FeatureQueue, MomentumModel
from albef.preprocessing.text import TextTokenizer
from albef.tasks.captions import KNOWN_TEXTS, Collate
from albef.tasks.task import Task


class MatchingConfig(Section):
    """Values of ITC and ITM."""

    queue_size: CountOrZero = 65536
    """Number of pairs in the feature queue; 0 uses the batch as the only candidates."""
    contrast: Literal["softmax", "sigmoid"] = opt_in("softmax")
    """Form of ITC. ``softmax`` is the paper's: each image chooses among texts, and each text among
    images. ``sigmoid`` is SigLIP's: each pair is true or false on its own, with a learned bias.
    """
    hard_negatives: bool = True
    """If true, draw the negatives of ITM by similarity, as in the paper. If false, draw them
    uniformly. Set false if one text is true of many images ("the key"): the most similar images are
    then not negatives."""
    equal_texts: bool = False
    """If true, a text is not a negative of other images that have it among their captions (the
    first 16). The paper treats it as a negative."""
    exchanged: tuple[Annotated[tuple[str, ...], Field(min_length=2)], ...] = ()
    """Groups of words that make a text false if they are exchanged, such as "left" and "right".
    Each word must be a token of the vocabulary. In half of the captions with such words, the
    negative text of ITM is the text itself with the words of one group exchanged, instead of a
    drawn text. The paper has no groups."""
    exchanged_itm: Share = opt_in(0.6)
    """Share of the texts of ``itm_captions`` in which words are exchanged; ``exchanged`` uses half
    of the captions. With a larger share, more true short captions are refused; with a smaller one,
    more false ones are accepted."""
    exchanged_ranking: Annotated[float, Field(ge=0)] = opt_in(0.0)
    """Weight of a loss that ranks a text above the same text with exchanged words, by ITM's logits.
    From weights that start at random, ITM alone learns the order of words late, or not at all. It
    needs ``exchanged``. The paper does not have it."""
    itm_captions: Share = 0.0
    """Share of the images for which ITM also reads a text drawn from their ``itm_captions`` in the
    meta: texts that may be true of many other images, such as "two frogs". In fine-tuning, only
    half of them have a negative image. ITC and MLM do not read them. It needs ``equal_texts``. The
    paper has no such captions."""
    itm: bool = opt_in(True)
    """If true, train image-text matching (ITM) and with it the fusion encoder. If false, only
    contrast is trained, as in CLIP, and texts and images are ranked by it alone. A few hundred
    images are too few for ITM."""
    projection_dropout: Annotated[float, Field(ge=0, lt=1)] = opt_in(0.0)
    """Dropout of the pooled states before their projections. Frozen encoders and few images need
    it. The paper has none."""
    wpa: Annotated[float, Field(ge=0)] = 0.0
    """Weight of word-patch alignment, a loss that aligns words with the image patches they
    describe. The paper does not have it. If weights start at random, this loss teaches which of two
    objects is on the left."""

    @model_validator(mode="after")
    def _check_needs(self) -> Self:
        if self.itm_captions and not self.equal_texts:
            raise ValueError("itm_captions needs equal_texts: true")
        if self.exchanged_ranking and not self.exchanged:
            raise ValueError("exchanged_ranking needs exchanged: list words there, or set it to 0")
        for name in ("wpa", "exchanged", "itm_captions"):
            if not self.itm and getattr(self, name):
                raise ValueError(f"{name} needs itm: true")
        losses = [name for name in ("itc", "itm", "mlm") if hasattr(self, name)]
        if "itc" in losses and not any(getattr(self, name) for name in losses):
            raise ValueError(f"nothing is trained; set {' or '.join(losses)} to true")
        return self


EXCHANGED = 0.5
"""Share of a batch's captions in which words are exchanged."""
START_BIAS = -10.0
"""Initial bias of ``contrast: sigmoid``, as in SigLIP: at first almost all pairs are false."""


def group_ids(
    groups: Sequence[Sequence[str]], tokenizer: TextTokenizer, name: str
) -> list[list[int]]:
    """Return the token ids of each group of words; ``name`` is their key in the config.

    Raises:
        ValueError: a word is not a token.
    """
    result: list[list[int]] = []
    for group in groups:
        result.append([])
        for word in group:
            if (token := tokenizer.token_of(word)) is None:
                raise ValueError(f"{name}: {word!r} is not a token of the vocabulary; remove it")
            result[-1].append(token)
    return result


class EncodedPairs(NamedTuple):
    """A batch of B pairs, encoded by the student and the momentum model."""

    batch: Batch
    """Batch of :class:`Collate`. If it has ``image_id``, pairs with an equal one are positives of
    each other; otherwise each pair is its only positive."""
    image_states: Tensor
    """Student's image states (B, N, D)."""
    text_states: Tensor
    """Student's text states (B, L, D)."""
    feats_m: tuple[Tensor, Tensor] | None
    """Momentum features (B, E) of the images and of the texts. None uses the student's own."""


class Positives(NamedTuple):
    """True texts of the images of a batch; C = B + Q candidates of ITC, the batch first."""

    texts: Tensor
    """(B, B) bool; true if the text of a column is true of the image of a row."""
    targets: Tensor
    """Targets of ITC (B, C)."""
    ignored: tuple[Tensor, Tensor] | None
    """(B, C) bool, candidates that ITC ignores: texts of the images, and images of the texts."""


@dataclass(frozen=True)
class Texts:
    """The texts of a batch for ITM: B true pairs with images, and what their negatives follow."""

    ids: Tensor
    """Token ids (B, L)."""
    mask: Tensor
    """(B, L); 1 = attend."""
    states: Tensor
    """States (B, L, D) whose fusion has begun."""
    image: list[KeyValue]
    """Keys and values of the B images."""
    sim_i2t: Tensor
    """(B, B) similarities that weigh the texts."""
    sim_t2i: Tensor
    """(T, B) similarities that weigh the images; only the first T texts get a negative image."""
    positives: Tensor
    """(B, B) bool; true if the text of a column is true of the image of a row."""
    exchanged: int
    """Number of texts in which words are exchanged, if the config has such words."""


@dataclass(frozen=True)
class ScoredTexts:
    """ITM's scores of :class:`Texts` and their negatives."""

    matches: Matches
    is_exchanged: Tensor
    """(B,) bool; true if the negative text of the image is its own with exchanged words."""

    @property
    def true_logits(self) -> Tensor:
        """Logits of the true pairs (B, 2)."""
        return self.matches.logits[: len(self.is_exchanged)]

    @property
    def false_text_logits(self) -> Tensor:
        """Logits of the images with their negative texts (B, 2)."""
        return self.matches.logits[-len(self.is_exchanged) :]


def _itm_loss(scored: Sequence[ScoredTexts]) -> Tensor:
    """Return ITM's loss over all texts of a batch and their negatives."""
    matches = [texts.matches for texts in scored]
    logits, labels, valid = (torch.cat(part) for part in zip(*matches, strict=True))
    return itm_loss(logits, labels, valid)


def _ranking_loss(scored: Sequence[ScoredTexts]) -> Tensor:
    """Return the loss that ranks each text above itself with exchanged words."""
    true = torch.cat([texts.true_logits for texts in scored])
    false = torch.cat([texts.false_text_logits for texts in scored])
    return ranking_loss(true, false, torch.cat([texts.is_exchanged for texts in scored]))


def _ids_of(batch: Batch) -> Tensor | None:
    """Return the ids that the queue keeps, (B,) or with texts (B, 2 + KNOWN_TEXTS), if any."""
    if "text_ids" not in batch:
        return batch.get("image_id")
    texts = batch["text_ids"]
    # If a pair is its only positive, nothing compares the first column.
    return torch.cat([batch.get("image_id", torch.zeros_like(texts[:, 0]))[:, None], texts], dim=1)


class MatchingTask(Task):
    """A model with an ITM head.

    Attributes:
        model: the student.
        itm_head: linear, 2 classes, on the fused [CLS].
    """

    capability: ClassVar[str] = "matching"
    itc_bias: nn.Parameter | None
    """Scalar of ``contrast: sigmoid``."""
    exchanges: Tensor
    """(K, V): the token that replaces each token, for each of K ways to exchange words."""
    itc: bool = True
    """True if the contrastive loss is trained."""
    itm_negative_images: ClassVar[float] = 1.0
    """Share of the ``itm_captions`` that have a negative image."""
    itm_equal_rank: ClassVar[bool] = False
    """True if the ``itm_captions`` of a batch have the same relative rank by length."""

    def __init__(self, config: object, model: ModelConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, model, tokenizer)
        self.model = ALBEF(model, tokenizer.vocab_size)
        self.model.projection_dropout = getattr(config, "projection_dropout", 0.0)
        self.itm_head = nn.Linear(model.fused.width, 2)
        nn.init.normal_(self.itm_head.weight, std=0.02)
        nn.init.zeros_(self.itm_head.bias)

    def collate(self, transform: ImageTransform) -> Collate:
        """Return the collate of training batches."""
        config = self.config
        return Collate(
            self.tokenizer,
            transform,
            config.max_tokens,
            equal_texts=config.equal_texts,
            itm_captions=config.itm_captions,
            itm_equal_rank=self.itm_equal_rank,
        )

    def add_momentum_model(self, temperature: float) -> None:
        """Add what only training needs: temperature, momentum model and queue."""
        self.temperature = nn.Parameter(torch.tensor(temperature))
        is_pairwise = self.config.contrast == "sigmoid"
        self.itc_bias = nn.Parameter(torch.tensor(START_BIAS)) if is_pairwise else None
        self.model_m = MomentumModel(self.model)
        ids = 2 + KNOWN_TEXTS if self.config.equal_texts else 1  # Columns of _ids_of.
        self.queue = FeatureQueue(self.config.queue_size, self.sizes.embed_dim, ids)
        if self.config.exchanged:
            exchanges = []
            for group in group_ids(self.config.exchanged, self.tokenizer, "exchanged"):
                for by in range(1, len(group)):
                    exchanges.append(torch.arange(self.tokenizer.vocab_size))
                    exchanges[-1][group] = torch.tensor(group[by:] + group[:by])
            self.register_buffer("exchanges", torch.stack(exchanges), persistent=False)

    def exchange(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange the words of a random group in texts (B, L); also return which changed (B,)."""
        ways = self.exchanges[:, ids]
        has_word = (ways != ids).any(dim=2)
        way = (torch.rand(has_word.shape, device=ids.device) * has_word).argmax(dim=0)
        return ways[way, torch.arange(len(ids), device=ids.device)], has_word.any(dim=0)

    def train_itc(self, trained: bool) -> None:
        """Enable the contrastive loss, or disable it and freeze the weights that only it trains."""
        self.itc = trained
        if not trained:
            self.model.freeze_projections()
            for scalar in (self.temperature, self.itc_bias):
                if scalar is not None:
                    scalar.requires_grad_(False)

    def train_itm(self, trained: bool, mlm: bool = False) -> None:
        """Enable ITM, or disable it; freeze the fusion layers if neither it nor MLM trains them."""
        self.fuses = trained or mlm
        if not trained:
            self.itm_head.requires_grad_(False)
        if not self.fuses:
            self.model.fusion_encoder.requires_grad_(False)

    @torch.no_grad()
    def embed_images(
        self, records: Records, batch_size: int, max_kept: int = 0
    ) -> tuple[list[Record], Tensor, list[Tensor]]:
        """Encode the images of a split.

        Returns:
            The records without their images and the image features (I, E), of all processes. Last,
            the image states of this process, batch by batch; none if those of the split have more
            than ``max_kept`` values.
        """
        rows: list[Record] = []
        features: list[Tensor] = []
        kept: list[Tensor] = []
        for batch, images in self.read(records, batch_size):
            rows += [replace(row, image=b"") for row in batch]
            states = self.model.encode_image(images)
            features.append(self.model.image_feat(states).cpu())
            if len(records) * states[0].numel() <= max_kept:
                kept.append(states)
        return world().join(rows), torch.cat(world().join(features)).to(self.device), kept

    def encode_image_m(self, images: Tensor, image_states: Tensor) -> Tensor:
        """Return the momentum model's states of images (B, 3, H, W).

        They are ``image_states`` if the encoder is frozen, since it then equals its momentum model.
        """
        learns = any(p.requires_grad for p in self.model.image_encoder.parameters())
        return self.model_m.model.encode_image(images) if learns else image_states

    def match(
        self,
        pairs: EncodedPairs,
        alpha: float,
        queued: int | None = None,
    ) -> tuple[dict[str, Tensor], list[KeyValue]]:
        """Sum the losses of a batch of pairs: ITC, ITM and word-patch alignment.

        Args:
            pairs: the batch.
            alpha: weight of the momentum model in ITC's targets.
            queued: number of queue entries, the first ones, that are candidates; None means all.

        Returns:
            The outputs of :meth:`forward`, and keys and values of the student's images, if a loss
            reads them.
        """
        model, config = self.model, self.config
        positives = self._positives(pairs.batch, queued)
        feats = model.image_feat(pairs.image_states), model.text_feat(pairs.text_states)
        feats_m = pairs.feats_m or feats
        itc = self._itc((*feats, *feats_m), positives, alpha, queued)
        states = pairs.image_states
        image = model.fusion_encoder.image_key_values(states) if self.fuses else []
        losses = {"itc": itc.loss}  # It is logged even if it is not trained.
        outputs: dict[str, Tensor] = {}
        if config.itm:
            fused, outputs = self._fused_losses(pairs, image, itc, positives)
            losses |= fused

        weights = {
            "itm": 1.0,
            "ranking": config.exchanged_ranking,
            "itc": float(self.itc),
            "wpa": config.wpa,
        }
        loss = torch.zeros_like(itc.loss)
        for name, weight in weights.items():
            if weight and name in losses:
                loss = loss + weight * losses[name]
        outputs |= {name: losses[name].detach() for name in weights if name in losses} | {
            "temperature": self.temperature.detach(),
            "alpha": torch.full_like(itc.loss.detach(), alpha),
            "image_feat_m": feats_m[0].detach(),
            "text_feat_m": feats_m[1].detach(),
        }
        if (ids := _ids_of(pairs.batch)) is not None:
            outputs["ids"] = ids
        return {"loss": loss, **outputs}, image

    def _positives(self, batch: Batch, queued: int | None) -> Positives:
        """Return the true texts of the images of a batch, and the targets of ITC."""
        size, device, texts = len(batch["ids"]), batch["ids"].device, batch.get("text_ids")
        queued_ids = self.queue.ids[:queued]
        if "image_id" not in batch:
            positives = torch.eye(size, dtype=torch.bool, device=device)
            targets = one_hot_targets(size, size + len(queued_ids), device)
        else:
            own = batch["image_id"]
            positives = own[:, None] == own[None]
            targets = same_image_targets(own, queued_ids if texts is None else queued_ids[:, 0])
        if texts is None:
            return Positives(positives, targets, None)
        known = torch.cat([texts, queued_ids[:, 1:]])
        of_images = describes(known[:, 0], texts)
        of_texts = describes(texts[:, 0], known).t()
        ignored = of_images & (targets == 0), of_texts & (targets == 0)
        return Positives(positives | of_images[:, :size], targets, ignored)

    def _itc(
        self,
        feats: tuple[Tensor, Tensor, Tensor, Tensor],
        positives: Positives,
        alpha: float,
        queued: int | None,
    ) -> ItcOutput:
        """Return ITC of a batch with its similarities, by which ITM draws negatives.

        ``feats`` are features (B, E) of images and texts, and those of the momentum model.
        """
        return itc_loss(
            *feats,
            self.queue.image[:queued],
            self.queue.text[:queued],
            self.temperature,
            positives.targets,
            alpha,
            positives.ignored,
            self.itc_bias,
        )

    def _fused_losses(
        self, pairs: EncodedPairs, image: list[KeyValue], itc: ItcOutput, positives: Positives
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses that read fused states, and values to log."""
        config, mask = self.config, pairs.batch["text_mask"]
        begun = self.model.begin_fusion(pairs.text_states, mask)
        texts = self._texts(pairs.batch, begun, image, itc, positives)
        scored = [self._score(each) for each in texts]
        losses, outputs = {"itm": _itm_loss(scored)}, {}
        if config.exchanged:
            is_exchanged = torch.cat([each.is_exchanged for each in scored])
            outputs["exchanged"] = is_exchanged.float().mean()
        if config.exchanged_ranking:
            losses["ranking"] = _ranking_loss(scored)
        if config.wpa:
            query = self.model.fusion_encoder.first_query(begun)
            losses["wpa"] = wpa_loss(query, image[0][0], mask, same=positives.texts.t())
        return losses, outputs

    def _texts(
        self,
        batch: Batch,
        begun: Tensor,
        image: list[KeyValue],
        itc: ItcOutput,
        positives: Positives,
    ) -> Iterator[Texts]:
        """Yield the captions of a batch, and its further texts of ITM if it has any."""
        size = len(begun)
        weight = 1.0 if self.config.hard_negatives else 0.0  # Equal similarities draw uniformly.
        sim_i2t, sim_t2i = itc.sim_i2t[:, :size] * weight, itc.sim_t2i[:, :size] * weight
        yield Texts(
            batch["ids"],
            batch["text_mask"],
            begun,
            image,
            sim_i2t,
            sim_t2i,
            positives.texts,
            exchanged=math.ceil(EXCHANGED * size),
        )
        if "itm_ids" not in batch:
            return
        ids, mask, rows = batch["itm_ids"], batch["itm_mask"], batch["itm_rows"]
        with_image = rows[: round(self.itm_negative_images * len(rows))]
        yield Texts(
            ids,
            mask,
            self._begin(ids, mask),
            select(image, rows),
            sim_i2t[rows][:, rows],
            sim_t2i[with_image][:, rows],
            describes(batch["itm_text_id"], batch["text_ids"][rows]),
            exchanged=math.ceil(self.config.exchanged_itm * len(rows)),
        )

    def _score(self, texts: Texts) -> ScoredTexts:
        """Score the true pairs and negatives.

        Words are exchanged in texts drawn at random; only these are encoded again, after the
        others.
        """
        states, mask, size = texts.states, texts.mask, len(texts.ids)
        false_text = torch.full((size,), -1, device=mask.device)
        if self.config.exchanged:
            drawn = torch.randperm(size, device=mask.device)[: texts.exchanged]
            other, has_changed = self.exchange(texts.ids[drawn])
            states = torch.cat([states, self._begin(other, mask[drawn])])
            mask = torch.cat([mask, mask[drawn]])
            index = size + torch.arange(texts.exchanged, device=mask.device)
            false_text[drawn] = torch.where(has_changed, index, -1)
        sims = texts.sim_i2t, texts.sim_t2i
        negatives = hard_negative_indices(*sims, texts.positives, false_text)
        matches = match_pairs(self.model, self.itm_head, states, mask, texts.image, negatives)
        return ScoredTexts(matches, false_text >= 0)

    def _begin(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts (B, L) and begin their fusion: (B, L, D)."""
        return self.model.begin_fusion(self.model.encode_text(ids, mask), mask)

    def end_step(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Enqueue the momentum features of all micro-batches at once, with their ids if any."""
        image = torch.cat([output["image_feat_m"] for output in outputs])
        text = torch.cat([output["text_feat_m"] for output in outputs])
        ids = torch.arange(len(image), device=image.device)
        if "ids" in outputs[0]:
            ids = torch.cat([output["ids"] for output in outputs])
        self.queue.enqueue(image, text, ids)
