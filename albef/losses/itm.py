"""Image-text matching with negatives drawn from the batch (ALBEF, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Negatives(NamedTuple):
    """The negatives of a batch of B pairs; an index without a negative is arbitrary."""

    image: Tensor
    """(T,) index of the negative image of each of the first T texts."""
    has_image: Tensor
    """(T,) bool; true if the text has a negative image."""
    text: Tensor
    """(B,) index of each image's negative text; indices from B on are false texts."""
    has_text: Tensor
    """(B,) bool; true if the image has a negative text."""


def hard_negative_indices(
    sim_i2t: Tensor, sim_t2i: Tensor, barred: Tensor, false_text: Tensor
) -> Negatives:
    """Draw negative images for the first T texts of a batch, and a negative text for each image.

    Args:
        sim_i2t: (B, B) similarities that weigh the texts; see :func:`hard_negatives`.
        sim_t2i: (T, B) similarities that weigh the images.
        barred: (B, B) bool; true if the text of a column is not a negative of the image of a row.
        false_text: (B,) index of a pair's false text, which replaces the drawn one; -1 if it has
            none.
    """
    image, has_image = hard_negatives(sim_t2i, barred.t()[: len(sim_t2i)])
    text, has_text = hard_negatives(sim_i2t, barred)
    is_drawn = false_text < 0
    text = torch.where(is_drawn, text, false_text)
    return Negatives(image, has_image, text, has_text | ~is_drawn)


def hard_negatives(
    sim: Tensor, barred: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one negative per row in proportion to ``softmax(sim)`` over the allowed columns.

    They are the hard negatives of ITM (ALBEF, section 3.2).

    Args:
        sim: (R, B) similarities over temperature; zeros make the draw uniform.
        barred: (R, B) bool; true if a column is not a negative of the row (the pair itself).
        generator: random generator of the draw; None uses torch's default.

    Returns:
        (R,) column indices, and (R,) bool: true if the row has a negative. The index of a row
        without one is arbitrary.
    """
    valid = ~barred.all(dim=1)
    # Masking before the softmax keeps the proportions and cannot underflow to all zeros.
    weights = torch.softmax(sim.detach().float().masked_fill(barred, -torch.inf), dim=1)
    # A row of NaN (a training that diverged) draws any column. The loss reports the NaN.
    weights = torch.where(valid[:, None] & weights.isfinite(), weights, torch.ones_like(weights))
    return draw(weights, generator), valid


def draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one column (B,) of each row of ``weights`` (B, C), in proportion to the weights.

    It draws the same numbers as ``torch.multinomial`` but does not check the values, which would
    synchronize with the GPU.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=1)


def itm_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return the mean cross-entropy over the valid pairs: ITM (ALBEF, section 3.2), a scalar.

    Args:
        logits: (P, C); for matching C is 2 and class 1 "match".
        labels: (P,) in {0, ..., C - 1}.
        valid: (P,) bool; other pairs are left out. If no pair is valid, the loss is 0.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def ranking_loss(true: Tensor, false: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean logistic loss of ranking true pairs above false ones (Burges et al., 2005).

    Args:
        true: (B, 2) ITM logits; class 1 is "match".
        false: (B, 2) ITM logits of the same images with false texts.
        chosen: (B,) bool; other rows are left out. If no row is chosen, the loss is 0.
    """
    margins = true.float().diff(dim=1) - false.float().diff(dim=1)
    losses = F.softplus(-margins.squeeze(1))
    return (losses * chosen).sum() / chosen.sum().clamp(min=1)
