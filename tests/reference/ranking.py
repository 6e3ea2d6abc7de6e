"""Re-ranking of pairs (ALBEF, section 5), query by query."""

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.matching import NOT_RANKED
from tests.reference import fused


@torch.no_grad()
def texts_of_images(
    model: ALBEF,
    itm_head: nn.Linear,
    image_states: Tensor,
    text_states: Tensor,
    text_mask: Tensor,
    sim: Tensor,
    k: int,
) -> Tensor:
    """Raw ITM logits of the best ``k`` texts of each image.

    Args:
        model: the model.
        itm_head: linear, 2 classes.
        image_states: (I, N, D).
        text_states: (T, L, D).
        text_mask: (T, L).
        sim: (I, T) similarities by ITC.
        k: how many are re-ranked.

    Returns:
        (I, T), :data:`NOT_RANKED` where not among the best.
    """
    result = torch.full(sim.shape, NOT_RANKED)
    for row, scores in enumerate(sim):
        texts = scores.topk(min(k, len(scores))).indices
        repeated = image_states[row].repeat(len(texts), 1, 1)
        states = fused(model, text_states[texts], text_mask[texts], repeated)
        result[row, texts] = itm_head(states[:, 0])[:, 1].float()
    return result


@torch.no_grad()
def images_of_texts(
    model: ALBEF,
    itm_head: nn.Linear,
    image_states: Tensor,
    text_states: Tensor,
    text_mask: Tensor,
    sim: Tensor,
    k: int,
) -> Tensor:
    """The same of the best ``k`` images of each text; ``sim`` and the result are (T, I)."""
    result = torch.full(sim.shape, NOT_RANKED)
    for row, scores in enumerate(sim):
        images = scores.topk(min(k, len(scores))).indices
        repeated = text_states[row].repeat(len(images), 1, 1)
        mask = text_mask[row].repeat(len(images), 1)
        states = fused(model, repeated, mask, image_states[images])
        result[row, images] = itm_head(states[:, 0])[:, 1].float()
    return result
