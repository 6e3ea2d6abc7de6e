"""Masked language modeling on the masked positions only (ALBEF, sections 3.2 and 3.3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Label of a position that is not masked."""


def mlm_loss(logits: Tensor, labels: Tensor, logits_m: Tensor | None, alpha: float) -> Tensor:
    """Return the cross-entropy to the labels, mixed with that to the momentum model's softmax.

    It is MLM (ALBEF, sections 3.2 and 3.3).

    Args:
        logits: (P, V) at the masked positions and padding.
        labels: (P,) token ids, or :data:`IGNORED` at padding.
        logits_m: (P, V) of the momentum model; None if ``alpha`` is 0.
        alpha: weight of the momentum model.

    Returns:
        Scalar: means over the masked positions; 0 if none is masked.
    """
    logits = logits.float()
    masked = labels != IGNORED
    count = masked.sum().clamp(min=1)
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / count
    if logits_m is None:
        return loss
    soft = torch.softmax(logits_m.float(), dim=1)
    distilled = -(torch.log_softmax(logits, dim=1) * soft).sum(dim=1)
    return (1 - alpha) * loss + alpha * (distilled * masked).sum() / count
