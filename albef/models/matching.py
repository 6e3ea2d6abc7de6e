"""Which pairs image-text matching sees, and their logits in one batched pass."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from albef.losses.itm import hard_negatives
from albef.models.albef import ALBEF
from albef.models.bert import KeyValue
from albef.models.fusion import select


class Matches(NamedTuple):
    """The 3B pairs: (text, image), (text, negative image), (negative text, image)."""

    logits: Tensor
    """(3B, 2); class 1 is "match"."""
    labels: Tensor
    """(3B,): 1, 0, 0."""
    valid: Tensor
    """(3B,) bool; false where a row has no possible negative."""
    neg_image_idx: Tensor
    """(B,) the negative image of each text."""
    neg_text_idx: Tensor
    """(B,) the negative text of each image."""


def match_pairs(
    model: ALBEF,
    itm_head: nn.Linear,
    text_states: Tensor,
    text_mask: Tensor,
    image: list[KeyValue],
    sim_i2t: Tensor,
    sim_t2i: Tensor,
    barred: Tensor,
) -> Matches:
    """Draw hard negatives and score the three groups of pairs.

    Args:
        model: the student.
        itm_head: linear, 2 classes.
        text_states: (B, L, D) student states, with gradient.
        text_mask: (B, L).
        image: the student's image keys and values.
        sim_i2t: (B, B) similarities that weigh the negative texts.
        sim_t2i: (B, B) similarities that weigh the negative images.
        barred: (B, B) bool; true where two entries are no negatives of each other.
    """
    batch = len(text_states)
    neg_image, has_image = hard_negatives(sim_t2i, barred)
    neg_text, has_text = hard_negatives(sim_i2t, barred)
    own = torch.arange(batch, device=text_states.device)
    texts = torch.cat([own, own, neg_text])
    images = torch.cat([own, neg_image, own])
    chosen = text_states.index_select(0, texts)  # an index by tensor has no fixed order backward
    logits = itm_head(model.fused_cls(chosen, text_mask[texts], select(image, images)))
    labels = (torch.arange(3 * batch, device=logits.device) < batch).long()
    valid = torch.cat([torch.ones_like(has_image), has_image, has_text])
    return Matches(logits, labels, valid, neg_image, neg_text)
