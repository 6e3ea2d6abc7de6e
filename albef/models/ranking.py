"""Ranking images and texts against each other: ITC similarities, then ITM on the best pairs.

Shapes: I images, T texts, E shared width, L text tokens, D width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF

NOT_RANKED = -100.0
"""Score of a pair that is not re-ranked; it ranks below every pair that is."""
RANKS = (1, 5, 10)
"""First places within which a right answer counts, a recall each."""


@torch.no_grad()
def encode_images(model: ALBEF, images: Iterable[Tensor]) -> Tensor:
    """Batches of images (B, 3, H, W) to ``image_feat`` (I, E)."""
    return torch.cat([model.image_feat(model.encode_image(batch)) for batch in images])


@torch.no_grad()
def encode_texts(model: ALBEF, ids: Tensor, mask: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Ids and mask (T, L) to ``text_feat`` (T, E) and ``text_states`` (T, L, D)."""
    states = torch.cat(
        [
            model.encode_text(part, part_mask)
            for part, part_mask in zip(ids.split(batch_size), mask.split(batch_size), strict=True)
        ]
    )
    return model.text_feat(states), states


def best(sim: Tensor, k: int) -> Tensor:
    """(Q, C) similarities to (Q, C) bool: the k best candidates of each row."""
    top = sim.topk(min(k, sim.shape[1]), dim=1).indices
    return torch.zeros_like(sim, dtype=torch.bool).scatter_(1, top, True)


@torch.no_grad()
def match_scores(
    model: ALBEF,
    itm_head: nn.Linear,
    images: Iterable[Tensor],
    text_states: Tensor,
    text_mask: Tensor,
    pairs: Tensor,
) -> Tensor:
    """The raw ITM logit of class 1 for chosen pairs.

    Image-major: an image's keys and values are computed once and read by all of its texts; only
    [CLS] is computed in the last layer; padding beyond an image's longest text is trimmed.
    Memory is bounded by one batch of images and one image's texts.

    Args:
        model: the model.
        itm_head: linear, 2 classes.
        images: batches of images (B, 3, H, W), I in all, in order.
        text_states: (T, L, D).
        text_mask: (T, L).
        pairs: (I, T) bool, the pairs to score.

    Returns:
        (I, T) float32, :data:`NOT_RANKED` where not scored.
    """
    scores = torch.full(pairs.shape, NOT_RANKED, device=text_states.device)
    lengths = text_mask.sum(1)
    row = 0
    for batch in images:
        image = model.fusion_encoder.image_key_values(model.encode_image(batch))
        for inner in range(len(batch)):
            texts = pairs[row].nonzero().squeeze(1)
            if len(texts):
                longest = int(lengths[texts].max())
                own = [(key[inner : inner + 1], value[inner : inner + 1]) for key, value in image]
                fused = model.fused_cls(
                    text_states[texts, :longest], text_mask[texts, :longest], own
                )
                scores[row, texts] = itm_head(fused)[:, 1].float()
            row += 1
    return scores


def first_rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """Rank (from 0) of the best relevant candidate of each query.

    Ties count against it: a model that gives every pair the same score must not look good.

    Args:
        scores: (Q, C), higher is better.
        relevant: (Q, C) bool, at least one a row.
    """
    top = scores.masked_fill(~relevant, -torch.inf).max(dim=1, keepdim=True).values
    return ((scores >= top) & ~relevant).sum(dim=1)


def recalls(ranks_i2t: list[int], ranks_t2i: list[int]) -> dict[str, float]:
    """``tr@k``, ``ir@k`` for k of 1, 5 and 10, and their mean ``r_mean``, in percent."""
    result = {}
    for name, ranks in (("tr", ranks_i2t), ("ir", ranks_t2i)):
        for k in RANKS:
            result[f"{name}@{k}"] = 100.0 * sum(rank < k for rank in ranks) / max(1, len(ranks))
    return result | {"r_mean": sum(result.values()) / len(result)}


def chance_recalls(images: int, texts: int) -> dict[str, float]:
    """Expected :func:`recalls` of a random order, with one relevant candidate a query."""
    result = {f"tr@{k}": 100.0 * min(k, texts) / texts for k in RANKS}
    result |= {f"ir@{k}": 100.0 * min(k, images) / images for k in RANKS}
    return result | {"r_mean": sum(result.values()) / len(result)}
