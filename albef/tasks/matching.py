"""Matching of images with texts: the model, ITC and ITM of a batch, and training on pairs.

Retrieval and grounding train on pairs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from albef.config import CountOrZero, Section, Share, fixed, opt_in
from albef.loading.reading import Batch, ImageTransform
from albef.losses.distill import ramp
from albef.losses.itc import (
    Contrast,
    contrast,
    describes,
    one_hot_targets,
    same_image_targets,
)
from albef.losses.itm import hard_negative_indices, itm_loss, ranking_loss
from albef.losses.wpa import wpa_loss
from albef.models.albef import ALBEF, ModelConfig, resized
from albef.models.kernels import KeyValue, select
from albef.models.matching import Matches, match_pairs
from albef.models.momentum import EMPTY, FeatureQueue, MomentumModel
from albef.models.weights import Checkpoint, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.tasks.captions import KNOWN_TEXTS, Collate
from albef.tasks.task import MomentumConfig, RunTask, Task


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
        positives, targets, ignored = self._positives(pairs.batch, queued)
        feats = model.image_feat(pairs.image_states), model.text_feat(pairs.text_states)
        feats_m = pairs.feats_m or feats
        itc = contrast(
            *feats,
            *feats_m,
            self.queue.image[:queued],
            self.queue.text[:queued],
            self.temperature,
            targets,
            alpha,
            ignored,
            self.itc_bias,
        )
        states = pairs.image_states
        image = model.fusion_encoder.image_key_values(states) if self.fuses else []
        losses: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        loss = torch.zeros_like(itc.loss)
        if config.itm:
            mask = pairs.batch["text_mask"]
            begun = model.begin_fusion(pairs.text_states, mask)
            losses, outputs = self._itm(pairs.batch, begun, image, itc, positives)
            loss = losses["itm"]
        if "ranking" in losses:
            loss = loss + config.exchanged_ranking * losses["ranking"]
        losses["itc"] = itc.loss
        if self.itc:
            loss = loss + itc.loss
        if config.wpa:
            query = model.fusion_encoder.first_query(begun)
            losses["wpa"] = wpa_loss(query, image[0][0], mask, same=positives.t())
            loss = loss + config.wpa * losses["wpa"]
        outputs |= {name: value.detach() for name, value in losses.items()} | {
            "temperature": self.temperature.detach(),
            "alpha": torch.full_like(itc.loss.detach(), alpha),
            "image_feat_m": feats_m[0].detach(),
            "text_feat_m": feats_m[1].detach(),
        }
        if (ids := _ids_of(pairs.batch)) is not None:
            outputs["ids"] = ids
        return {"loss": loss, **outputs}, image

    def _positives(
        self, batch: Batch, queued: int | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return the true texts (B, B) of each image, and ITC's targets (B, B + Q).

        The last value has the candidates (B, B + Q) that ITC ignores, of the images and the texts.
        """
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
            return positives, targets, None
        known = torch.cat([texts, queued_ids[:, 1:]])
        of_images = describes(known[:, 0], texts)
        of_texts = describes(texts[:, 0], known).t()
        ignored = of_images & (targets == 0), of_texts & (targets == 0)
        return positives | of_images[:, :size], targets, ignored

    def _itm(
        self,
        batch: Batch,
        begun: Tensor,
        image: list[KeyValue],
        itc: Contrast,
        positives: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return ITM's losses with negatives drawn by ITC's similarities, and values to log."""
        size = len(begun)
        weight = 1.0 if self.config.hard_negatives else 0.0  # Equal similarities draw uniformly.
        sims = itc.sim_i2t[:, :size] * weight, itc.sim_t2i[:, :size] * weight
        texts = batch["ids"], batch["text_mask"], begun
        groups = [self._matches(texts, image, sims, positives, math.ceil(EXCHANGED * size))]
        if "itm_ids" in batch:
            ids, mask, rows = batch["itm_ids"], batch["itm_mask"], batch["itm_rows"]
            texts = ids, mask, self._begin(ids, mask)
            with_image = rows[: round(self.itm_negative_images * len(rows))]
            sims = sims[0][rows][:, rows], sims[1][with_image][:, rows]
            positives = describes(batch["itm_text_id"], batch["text_ids"][rows])
            count = math.ceil(self.config.exchanged_itm * len(rows))
            groups.append(self._matches(texts, select(image, rows), sims, positives, count))
        matches, false_texts = zip(*groups, strict=True)
        logits, labels, valid = (torch.cat(part) for part in zip(*matches, strict=True))
        losses, outputs = {"itm": itm_loss(logits, labels, valid)}, {}
        if self.config.exchanged:
            is_false = torch.cat(false_texts) >= 0
            outputs["exchanged"] = is_false.float().mean()
            if self.config.exchanged_ranking:
                sized = [*zip(matches, map(len, false_texts), strict=True)]
                true = torch.cat([match.logits[:size] for match, size in sized])
                other = torch.cat([match.logits[-size:] for match, size in sized])
                losses["ranking"] = ranking_loss(true, other, is_false)
        return losses, outputs

    def _matches(
        self,
        texts: tuple[Tensor, Tensor, Tensor],
        image: list[KeyValue],
        sims: tuple[Tensor, Tensor],
        positives: Tensor,
        count: int,
    ) -> tuple[Matches, Tensor]:
        """Score B pairs and their negatives; also return the index of each false text, or -1.

        ``texts`` are ids and mask (B, L), and states (B, L, D) whose fusion has begun. Words are
        exchanged in ``count`` texts, drawn at random; only these are encoded again.
        """
        ids, mask, begun = texts
        false_text = torch.full((len(ids),), -1, device=ids.device)
        if self.config.exchanged:
            drawn = torch.randperm(len(ids), device=ids.device)[:count]
            other, exchanged = self.exchange(ids[drawn])
            begun = torch.cat([begun, self._begin(other, mask[drawn])])
            mask = torch.cat([mask, mask[drawn]])
            index = len(ids) + torch.arange(count, device=ids.device)
            false_text[drawn] = torch.where(exchanged, index, -1)
        negatives = hard_negative_indices(*sims, positives, false_text)
        return match_pairs(self.model, self.itm_head, begun, mask, image, negatives), false_text

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
        if tensors["queue.ids"].shape != task.queue.ids.shape:
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
