"""Image-text contrastive loss with momentum targets (ALBEF, sections 3.2 and 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from albef.losses.distill import soft_targets


class Contrast(NamedTuple):
    """Outcome of :func:`contrast`; C = B + Q candidates, the batch first."""

    loss: Tensor
    """Scalar."""
    sim_i2t: Tensor
    """(B, C) student image features against momentum text features, over temperature."""
    sim_t2i: Tensor
    """(B, C) student text features against momentum image features, over temperature."""
    targets_i2t: Tensor
    """(B, C) target distributions."""
    targets_t2i: Tensor
    """(B, C) target distributions."""


def similarities(feat: Tensor, batch_feat_m: Tensor, queue_feat: Tensor, scale: Tensor) -> Tensor:
    """Return scaled similarities of unit vectors to the candidates ``[batch | queue]``.

    Args:
        feat: (B, E) queries.
        batch_feat_m: (B, E) the batch's features of the momentum model.
        queue_feat: (Q, E) features of earlier batches; Q may be 0.
        scale: scalar, one over the temperature.

    Returns:
        (B, B + Q), float32 under any autocast: near 80, bfloat16 has a resolution of 0.5. The
        logits are concatenated instead of the features because the queue is much larger.
    """
    device = feat.device.type if torch.amp.is_autocast_available(feat.device.type) else "cpu"
    with torch.autocast(device, enabled=False):
        return torch.cat([feat @ batch_feat_m.t(), feat @ queue_feat.t()], dim=1) * scale


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over rows of the cross-entropy to targets; (B, C), (B, C) -> scalar."""
    return -(torch.log_softmax(logits, dim=1) * targets).sum(dim=1).mean()


def contrast(
    image_feat: Tensor,
    text_feat: Tensor,
    image_feat_m: Tensor,
    text_feat_m: Tensor,
    queue_image: Tensor,
    queue_text: Tensor,
    temperature: Tensor,
    hard: Tensor,
    alpha: float,
) -> Contrast:
    """Return the mean of the image-to-text and text-to-image losses over batch and queue.

    Both losses are cross-entropies.

    Args:
        image_feat: (B, E) unit vectors of the student.
        text_feat: (B, E) unit vectors of the student.
        image_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        text_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        queue_image: (Q, E) image features of earlier batches.
        queue_text: (Q, E) text features of earlier batches.
        temperature: learned scalar; divides all similarities, those of the momentum model too.
        hard: (B, C) target distributions before distillation.
        alpha: weight of the momentum model's softmax in the targets; 0 skips the momentum model.
    """
    scale = 1 / temperature
    sim_i2t = similarities(image_feat, text_feat_m, queue_text, scale)
    sim_t2i = similarities(text_feat, image_feat_m, queue_image, scale)
    targets_i2t = targets_t2i = hard
    if alpha > 0:
        with torch.no_grad():
            sim_i2t_m = similarities(image_feat_m, text_feat_m, queue_text, scale)
            sim_t2i_m = similarities(text_feat_m, image_feat_m, queue_image, scale)
            targets_i2t = soft_targets(hard, sim_i2t_m, alpha)
            targets_t2i = soft_targets(hard, sim_t2i_m, alpha)
    loss = (soft_cross_entropy(sim_i2t, targets_i2t) + soft_cross_entropy(sim_t2i, targets_t2i)) / 2
    return Contrast(loss, sim_i2t, sim_t2i, targets_i2t, targets_t2i)


def one_hot_targets(batch: int, candidates: int, device: torch.device) -> Tensor:
    """Return targets (B, C) in which each pair is its only positive."""
    return torch.eye(batch, candidates, device=device)


def same_image_targets(ids: Tensor, queue_ids: Tensor) -> Tensor:
    """Return targets (B, B + Q): all entries that share an id with the row have equal weight.

    Args:
        ids: (B,) ids of the batch, such as image ids; or (B, n), of which one must be equal.
        queue_ids: (Q,) or (Q, n) ids of the queue.
    """
    same = equal_ids(ids, torch.cat([ids, queue_ids])).float()
    return same / same.sum(dim=1, keepdim=True)


def equal_ids(ids: Tensor, others: Tensor) -> Tensor:
    """Return (B, C) bool, true if two entries share an id; of (B,), (C,) or (B, n), (C, n)."""
    same = ids[:, None] == others[None]
    return same if same.ndim == 2 else same.any(dim=2)
