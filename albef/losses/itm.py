"""Image-text matching with negatives drawn from the batch (ALBEF, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Negatives(NamedTuple):
    """The negatives of a batch of B pairs; an index without a negative is arbitrary."""

    image: Tensor
    """(B,) index of each text's negative image."""
    has_image: Tensor
    """(B,) bool: whether the text has any."""
    text: Tensor
    """(B,) index of each image's negative text; from B on it is a false text."""
    has_text: Tensor
    """(B,) bool: whether the image has any."""


def hard_negative_indices(
    sim_i2t: Tensor, sim_t2i: Tensor, barred: Tensor, is_false: Tensor | None = None
) -> Negatives:
    """Draw a negative image for each text of a batch, and a negative text for each image.

    Args:
        sim_i2t: (B, B) similarities that weigh the texts; see :func:`hard_negatives`.
        sim_t2i: (B, B) similarities that weigh the images.
        barred: (B, B) bool; true where two entries are no negatives of each other.
        is_false: (B,) bool; true where a false text of the pair's own takes the place of the
            text that is drawn.
    """
    image, has_image = hard_negatives(sim_t2i, barred)
    text, has_text = hard_negatives(sim_i2t, barred)
    if is_false is not None:
        own = len(text) + torch.arange(len(text), device=text.device)
        text, has_text = torch.where(is_false, own, text), has_text | is_false
    return Negatives(image, has_image, text, has_text)


def hard_negatives(
    sim: Tensor, barred: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one negative per row in proportion to ``softmax(sim)`` over the allowed columns.

    Args:
        sim: (B, B) similarities over temperature; zeros make the draw uniform.
        barred: (B, B) bool, true where a column is no negative of the row (the pair itself).
        generator: source of the draw; torch's own where it is None.

    Returns:
        (B,) column indices and (B,) bool: whether the row has any negative. The index of a row
        without one is arbitrary.
    """
    valid = ~barred.all(dim=1)
    # Barring before the softmax keeps the proportions and cannot underflow to all zeros.
    weights = torch.softmax(sim.detach().float().masked_fill(barred, -torch.inf), dim=1)
    # A row of NaN (a training that diverged) draws anything: the loss itself tells of it.
    weights = torch.where(valid[:, None] & weights.isfinite(), weights, torch.ones_like(weights))
    return draw(weights, generator), valid


def draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """One column (B,) of each row of ``weights`` (B, C), in proportion to them.

    The numbers of ``torch.multinomial``, without its look at the values, for which a GPU may stop.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=1)


def itm_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over the valid pairs.

    Args:
        logits: (P, C); for matching C is 2 and class 1 "match".
        labels: (P,) in {0, ..., C - 1}.
        valid: (P,) bool; others are left out. None valid gives 0.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * valid).sum() / valid.sum().clamp(min=1)
