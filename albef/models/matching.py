"""Image-text matching: ITM on a batch's pairs in training, and on the best pairs of a ranking.

Shapes: B batch, I images, T texts, Q queries, C candidates, E shared width, L text tokens, D width.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from albef.losses.itm import Negatives
from albef.models.albef import ALBEF
from albef.models.kernels import KeyValue, select

Image = TypeVar("Image")
NOT_RANKED = -100.0
"""Score of a pair that is not re-ranked; it is lower than that of every re-ranked pair."""


class Matches(NamedTuple):
    """P = 2B + T pairs: (text, image), T of (text, negative image), (negative text, image)."""

    logits: Tensor
    """(P, 2); class 1 is "match"."""
    labels: Tensor
    """(P,): 1 for the first B pairs, else 0."""
    valid: Tensor
    """(P,) bool; false if a row has no possible negative."""


def match_pairs(
    model: ALBEF,
    itm_head: nn.Linear,
    begun: Tensor,
    text_mask: Tensor,
    image: list[KeyValue],
    negatives: Negatives,
) -> Matches:
    """Score the three groups of pairs in one pass.

    Texts are (B, L, D), or more with the false texts at the end, as their mask; their fusion has
    begun. ``image`` has keys and values of B images.
    """
    index = torch.arange(len(negatives.text), device=begun.device)
    texts = torch.cat([index, index[: len(negatives.image)], negatives.text])
    images = torch.cat([index, negatives.image, index])
    chosen = begun.index_select(0, texts)  # indexing has no fixed order backward
    logits = itm_head(model.fused_cls(chosen, text_mask[texts], select(image, images), begun=True))
    labels = (torch.arange(len(texts), device=logits.device) < len(index)).long()
    has_image, has_text = negatives.has_image, negatives.has_text
    valid = torch.cat([torch.ones_like(has_text), has_image, has_text])
    return Matches(logits, labels, valid)


@torch.no_grad()
def encode_texts(model: ALBEF, ids: Tensor, mask: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Encode ids and mask (T, L) to ``text_feat`` (T, E) and ``text_states`` (T, L, D)."""
    parts = zip(ids.split(batch_size), mask.split(batch_size), strict=True)
    states = torch.cat([model.encode_text(*part) for part in parts])
    return model.text_feat(states), states


def best(sim: Tensor, k: int) -> Tensor:
    """Return (Q, C) bool: the k best candidates of each row of similarities (Q, C)."""
    top = sim.topk(min(k, sim.shape[1]), dim=1).indices
    return torch.zeros_like(sim, dtype=torch.bool).scatter_(1, top, True)


def match_logits(itm_head: nn.Linear, fused_cls: Tensor) -> Tensor:
    """Return ITM's logits (P, 2), always in float32: in 16 bits many pairs would tie."""
    with torch.autocast(fused_cls.device.type, enabled=False):
        logits: Tensor = itm_head(fused_cls.float())
    return logits


def itm_scores(logits: Tensor, margin: bool) -> Tensor:
    """Return the scores (P,) of logits (P, 2): those of class 1, or their margin over class 0.

    The paper ranks by class 1. The margin has the order of the probability.
    """
    return logits[:, 1] - logits[:, 0] if margin else logits[:, 1]


@torch.no_grad()
def match_scores(
    model: ALBEF,
    itm_head: nn.Linear,
    image_states: Iterable[Tensor],
    text_states: Tensor,
    text_mask: Tensor,
    pairs: Tensor,
    margin: bool = False,
) -> Tensor:
    """Return :func:`itm_scores` of selected pairs; see :func:`score_pairs`.

    ``image_states`` are batches (B, N, D), I images in all. Texts are (T, L, D). An image's keys
    and values are computed once and used by all of its texts. The last layer computes only [CLS].
    Memory is bounded by one batch of images and one image's texts.
    """

    def score(texts: Tensor, longest: int, image: list[KeyValue]) -> Tensor:
        states, mask = text_states[texts, :longest], text_mask[texts, :longest]
        return itm_scores(match_logits(itm_head, model.fused_cls(states, mask, image)), margin)

    each = (
        [(key[i : i + 1], value[i : i + 1]) for key, value in image]
        for batch in image_states
        for image in [model.fusion_encoder.image_key_values(batch)]
        for i in range(len(batch))
    )
    return score_pairs(pairs, text_mask.sum(1), each, score)


def score_pairs(
    pairs: Tensor,
    lengths: Tensor,
    images: Iterable[Image],
    score: Callable[[Tensor, int, Image], Tensor],
) -> Tensor:
    """Return scores (I, T) of selected pairs (I, T), image by image; others are NOT_RANKED.

    ``lengths`` (T,) are those of the texts, in tokens. ``score`` is a function of texts (n,), the
    length to which they are trimmed, and one of the I encoded images; it returns scores (n,).
    """
    scores = torch.full(pairs.shape, NOT_RANKED, device=pairs.device)
    for row, image in enumerate(images):
        texts = pairs[row].nonzero().squeeze(1)
        if len(texts):
            scores[row, texts] = score(texts, int(lengths[texts].max()), image)
    return scores


def first_rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """Return the rank (from 0) of the best relevant candidate of each query, by scores (Q, C).

    Each row of ``relevant`` (Q, C) has at least one. Ties and NaN count against it: a model that
    gives every pair the same score, or none, must not look good.
    """
    top = scores.masked_fill(~relevant, -torch.inf).max(dim=1, keepdim=True).values
    return (~(scores < top) & ~relevant).sum(dim=1)
