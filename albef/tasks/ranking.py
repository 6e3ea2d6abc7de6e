"""Prediction of the kinds that rank texts for images and images for texts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from albef.config import CountOrZero, Section
from albef.data.record import Record
from albef.distributed import world
from albef.loading.reading import (
    Pairs,
    RecaptionedRecords,
    Records,
    distinct,
    shared,
    stack_distinct_images,
)
from albef.models.kernels import KeyValue, select
from albef.models.matching import (
    NOT_RANKED,
    best,
    encode_texts,
    first_rank,
    itm_scores,
    match_logits,
    match_scores,
    score_pairs,
)
from albef.preprocessing.zero_shot import Templates, class_logits, prompts
from albef.tasks.matching import MatchingTask
from albef.tasks.rates import Validation, validate_ranking
from albef.tasks.task import Table, extend
from albef.tasks.temperature import BATCH, Judged, hardest, matched

log = logging.getLogger("albef")
if TYPE_CHECKING:
    from albef.runtime.model import Model

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Values of ``itc_weight`` that are tried. With 0, the ranking is that of ITM's margin alone."""
TOP = 10
"""Number of ranked candidates kept of each query."""
KEPT = 2**26
"""Maximum number of values of a split's image states that are kept for ITM. If there are more, the
images are encoded a second time."""


class ZeroShot(Section):
    """Zero-shot classification of a split: classes that training did not have."""

    label: str
    """Name of the field in a record's ``meta`` with its label, in words. The distinct labels of the
    split are the classes."""
    templates: Templates = ("{}",)
    """Texts with {} in place of the label. The features of a class are the mean over all
    templates."""


class RankingTask(MatchingTask):
    """A task that ranks texts for images and images for texts."""

    primary: ClassVar[str] = "r_mean"
    metrics: ClassVar[str] = "albef.metrics.ranking"
    itc_weight: float | None = 0.0
    """Weight of the similarity, divided by the temperature, that is added to ITM's margin in the
    final score. 0 is ITM alone, as in the paper, None contrast alone."""
    rerank_k: CountOrZero | None = 0
    """Number of candidates that ITM re-ranks; 0 ranks by ITC alone, None re-ranks all."""
    zero_shot: Mapping[str, ZeroShot] = {}
    """Zero-shot classification of a split, by split name; such a split is not ranked."""

    @torch.no_grad()
    def predict(self, records: Records, batch_size: int, model: "Model | None" = None) -> Table:
        """Rank, decide or classify a split, depending on its records.

        - By default, a row is a query that ranks: ``query`` ("i2t" or "t2i"), ``key``, ``caption``,
          and ``rank`` and ``rank_itc`` of the best right answer, from 0. ``top`` and ``top_itc``
          are the first answers: captions for "i2t", keys for "t2i".
        - If the records come in pairs, a row decides between the two of a pair; ``change`` names
          their difference.
        - If :attr:`zero_shot` names the split, a row is a classified image: ``key``, ``label``,
          ``predicted`` and its ``probability``.
        """
        if model is not None:
            return self._predict_exported(model, records, batch_size)
        rows, image_feat, kept = self.embed_images(records, batch_size, KEPT)
        if shot := self.zero_shot.get(rows[0].split):

            def classify(labels: Sequence[str]) -> Tensor:
                ids, mask = self.texts(prompts(labels, shot.templates))
                text_feat, _ = encode_texts(self.model, ids, mask, batch_size)
                feats = image_feat.float().cpu().numpy(), text_feat.float().cpu().numpy()
                logits = class_logits(*feats, len(labels), self.temperature.item())
                return torch.softmax(torch.from_numpy(logits), dim=1)

            return self._classify(shot, rows, classify)
        sim, match = self._compared(records, batch_size, rows, image_feat, kept)
        return ranked(rows, sim, self.rerank_k, match, self._factor())

    def _factor(self, scale: float = 1.0) -> float | None:
        """Return the factor of similarities in the final score; None ranks by them alone.

        ``scale`` is what the model has divided ITM's logits by.
        """
        if self.itc_weight is None:
            return None
        return self.itc_weight / (scale * self.temperature.item())

    def _compared(
        self,
        records: Records,
        batch_size: int,
        rows: Sequence[Record],
        image_feat: Tensor,
        kept: Sequence[Tensor],
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return similarities (I, T), and the function that scores selected pairs by ITM."""
        ids, mask = self.texts([caption for row in rows for caption in row.captions])
        text_feat, text_states = encode_texts(self.model, ids, mask, batch_size)
        mine = [i for part in shared(len(records), batch_size) for i in part]

        def match(pairs: Tensor) -> Tensor:
            of_mine = pairs[mine]
            encoded = kept or (
                self.model.encode_image(images) for _, images in self.read(records, batch_size)
            )
            parts = self.model, self.itm_head, encoded, text_states, mask, of_mine
            partial = match_scores(*parts, margin=self.itc_weight != 0)
            scores = torch.full(pairs.shape, NOT_RANKED, device=pairs.device)
            scores[pairs] = torch.cat(world().join([partial[of_mine].cpu()])).to(pairs.device)
            return scores

        with torch.autocast(self.device.type, enabled=False):
            sim = image_feat @ text_feat.t()
        return sim, match

    def _classify(
        self, shot: ZeroShot, rows: Sequence[Record], classify: Callable[[Sequence[str]], Tensor]
    ) -> Table:
        """Return the table of I rows, where ``classify`` maps C labels to probabilities (I, C)."""
        truths = [row.meta.get(shot.label) for row in rows]
        if without := [row.key for row, truth in zip(rows, truths, strict=True) if not truth]:
            raise ValueError(
                f"record {without[0]} has no {shot.label!r} in its meta; correct "
                f"zero_shot.{rows[0].split}.label"
            )
        labels = sorted({str(truth) for truth in truths})
        best, which = classify(labels).max(dim=1)
        return {
            "key": [row.key for row in rows],
            "label": [str(truth) for truth in truths],
            "predicted": [labels[i] for i in which.tolist()],
            "probability": best.tolist(),
        }

    def _predict_exported(self, model: "Model", records: Records, batch_size: int) -> Table:
        rows, encoded = [], []
        for row_batch, _ in self.read(records, batch_size, model):
            rows += [replace(row, image=b"") for row in row_batch]
            encoded.append([row.image for row in row_batch])
        if shot := self.zero_shot.get(rows[0].split):

            def classify(labels: Sequence[str]) -> Tensor:
                parts = [model.zero_shot(images, labels, shot.templates) for images in encoded]
                return torch.from_numpy(np.concatenate(parts))

            return self._classify(shot, rows, classify)
        ids, mask = model.ids([caption for row in rows for caption in row.captions])
        parts = [slice(i, i + batch_size) for i in range(0, len(ids), batch_size)]
        texts = [model.encode_text(ids[part], mask[part]) for part in parts]
        states, text_feat = (np.concatenate(part) for part in zip(*texts, strict=True))
        features, kept = [], []
        for batch in encoded:
            image_states: Any = model.encode_image(model.pixels(batch))
            features.append(image_states.feat)
            if len(rows) * 2 * image_states.keys[0].size <= KEPT:
                kept.append(image_states)
        sim = torch.from_numpy(np.concatenate(features) @ text_feat.T)

        def score(texts: Tensor, longest: int, image: object) -> Tensor:
            indices = texts.numpy()
            text = states[None, indices, :longest], mask[None, indices, :longest]
            logits = torch.from_numpy(model.score(*text, image)[0])
            return itm_scores(logits, self.itc_weight != 0)

        def match(pairs: Tensor) -> Tensor:
            images = (
                image_states.take([index])
                for image_states in kept or (model.encode_image(model.pixels(b)) for b in encoded)
                for index in range(len(image_states.keys))
            )
            return score_pairs(pairs, torch.from_numpy(mask.sum(1)), images, score)

        return ranked(rows, sim, self.rerank_k, match, self._factor(model.facts.temperature))

    @torch.no_grad()
    def choose_weight(self, records: Records, batch_size: int) -> float | None:
        """Return the :attr:`itc_weight` with which a split is ranked best.

        If contrast alone is at least as good as every mix, it is None.
        """
        self.itc_weight = None
        rows, image_feat, kept = self.embed_images(records, batch_size, KEPT)
        sim, match = self._compared(records, batch_size, rows, image_feat, kept)
        scores: list[Tensor] = []

        def match_once(pairs: Tensor) -> Tensor:
            if not scores:  # All weights select the same pairs.
                scores.append(match(pairs))
            return scores[0]

        means: dict[float | None, float] = {}
        for weight in (None, *WEIGHTS):
            self.itc_weight = weight
            table = ranked(rows, sim, self.rerank_k, match_once, self._factor())
            means[weight] = self.validate(table).metrics[self.primary]
        tried = ", ".join(f"{_formula(weight)} {mean:.2f}" for weight, mean in means.items())
        log.info("%s on %d records of val: %s", self.primary, len(records), tried)
        chosen = max(means, key=lambda weight: means[weight])  # the first of equal ones
        if chosen is None:
            log.warning("ITM does not help on val; this run ranks by contrast alone")
        return chosen

    @torch.no_grad()
    def judge(self, records: Records) -> Judged | None:
        """Return ITM's decisions about the images of a split, each with two captions.

        They are its own, and the most similar one of another image of the batch. Images with
        ``itm_captions`` are judged in the same way with the first of these.
        """
        if not self.config.itm:
            return None
        judged: list[tuple[Sequence[float], float]] = []
        for rows, images in self.read(records, BATCH):
            states = self.model.encode_image(images)
            judged += self._judge_texts(rows, states, [row.captions[0] for row in rows])
            if further := [i for i, row in enumerate(rows) if row.itm_captions]:
                texts = [rows[i].itm_captions[0] for i in further]
                judged += self._judge_texts([rows[i] for i in further], states[further], texts)
        return Judged.of(world().join(judged))

    def _judge_texts(
        self, rows: Sequence[Record], image_states: Tensor, texts: Sequence[str]
    ) -> list[tuple[Sequence[float], float]]:
        """Return ITM's logits of B images with their texts and with hard negatives, and scores."""
        ids, mask = self.texts(texts)
        text_states = self.model.encode_text(ids, mask)
        sim = self.model.image_feat(image_states) @ self.model.text_feat(text_states).t()
        pairs = hardest(rows, texts, sim.float().cpu().numpy())
        image, text = torch.tensor(pairs, device=ids.device).unbind(1)
        keys = self.model.fusion_encoder.image_key_values(image_states)
        logits = self._itm_logits(text_states[text], mask[text], keys, image)
        return matched(logits.tolist(), pairs)

    def _itm_logits(
        self, text_states: Tensor, mask: Tensor, keys: list[KeyValue], image: Tensor
    ) -> Tensor:
        """Return ITM's logits (P, 2) of texts (P, L, D) with images, given by their indices."""
        fused = self.model.fused_cls(text_states, mask, select(keys, image))
        return match_logits(self.itm_head, fused)

    @torch.no_grad()
    def agreement(
        self, records: Records, pairs: Pairs, batch_size: int, model: "Model | None" = None
    ) -> list[float]:
        """Return ITM's probability that the text and the image of each pair belong together."""
        chances: list[float] = []
        recaptioned = RecaptionedRecords(records, pairs)
        for rows, images in self.read(recaptioned, batch_size, model, stack_distinct_images):
            texts = [row.captions[0] for row in rows]
            if model is not None:
                chances += model.match([row.image for row in rows], texts).tolist()
                continue
            keys = self.model.fusion_encoder.image_key_values(self.model.encode_image(images))
            owner = torch.tensor(distinct(rows)[1], device=images.device)
            ids, mask = self.texts(texts)
            logits = self._itm_logits(self.model.encode_text(ids, mask), mask, keys, owner)
            chances += torch.softmax(logits, dim=1)[:, 1].tolist()
        return world().join(chances)

    def validate(self, table: Table) -> Validation:
        """Return the recalls of the queries, re-ranked and by ITC alone (``itc_``)."""
        return validate_ranking(table)


def _formula(weight: float | None) -> str:
    """Return the score that a weight of the similarity means, in words."""
    if weight is None:
        return "contrast alone"
    return f"ITM + {weight:g} x similarity" if weight else "ITM alone"


def ranked(
    rows: Sequence[Record],
    sim: Tensor,
    rerank_k: int | None,
    match: Callable[[Tensor], Tensor],
    weight: float | None = 0.0,
) -> Table:
    """Return the table of :meth:`RankingTask.predict`.

    Args:
        rows: I records with T captions in all; their images are not read.
        sim: (I, T) similarities of ITC.
        rerank_k: number of candidates that ITM re-ranks; 0 ranks by ITC alone, None re-ranks all.
        match: function from selected pairs (I, T) bool to the ITM scores (I, T); called once.
        weight: factor of the similarities that are added to the ITM scores; None ranks by
            similarity alone. Unless it is 0, the table also has ``rank_itm`` of ITM alone.
    """
    captions = [caption for row in rows for caption in row.captions]
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.captions])
    image_ids = torch.tensor([row.image_id for row in rows])
    relevant = (image_ids[:, None] == image_ids[owner][None, :]).to(sim.device)
    paired = all("pair" in row.meta for row in rows)
    if paired:
        pair_ids = torch.tensor([row.meta["pair"] for row in rows])
        partner = (pair_ids[:, None] == pair_ids[owner][None, :]).to(sim.device)
        sim = sim.masked_fill(~partner, -torch.inf)

    itc = {"i2t": sim, "t2i": sim.t()}
    final = dict(itc)
    if rerank_k != 0:
        max_candidates = sim.numel() if rerank_k is None else rerank_k
        chosen = {n: best(scores, max_candidates) & scores.isfinite() for n, scores in itc.items()}
        scores = match(chosen["i2t"] | chosen["t2i"].t())
        for name, by_query in (("i2t", scores), ("t2i", scores.t())):
            final[name] = by_query.masked_fill(~chosen[name], -torch.inf)
    itm = dict(final)
    if weight != 0:
        final = {n: itc[n] if weight is None else itm[n] + weight * itc[n] for n in itc}

    table: Table = {}
    images = [(row, "") for row in rows]
    texts = [(rows[i], text) for i, text in zip(owner.tolist(), captions, strict=True)]
    for name, right, queries, answers in (
        ("i2t", relevant, images, captions),
        ("t2i", relevant.t(), texts, [row.key for row in rows]),
    ):
        columns = {
            "query": [name] * len(queries),
            "key": [row.key for row, _ in queries],
            "caption": [caption for _, caption in queries],
            "rank": first_rank(final[name], right).tolist(),
            "rank_itc": first_rank(itc[name], right).tolist(),
            "top": _top(final[name], answers),
            "top_itc": _top(itc[name], answers),
        }
        if weight != 0 and rerank_k != 0:
            columns["rank_itm"] = first_rank(itm[name], right).tolist()
        if paired:
            columns["change"] = [row.meta["change"] for row, _ in queries]
        extend(table, columns)
    return table


def _top(scores: Tensor, answers: Sequence[str]) -> list[list[str]]:
    order = scores.topk(min(TOP, scores.shape[1]), dim=1)
    return [
        [answers[i] for i, value in zip(row, values, strict=True) if value > -torch.inf]
        for row, values in zip(order.indices.tolist(), order.values.tolist(), strict=True)
    ]
