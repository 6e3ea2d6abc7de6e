"""Momentum distillation: targets softened by the momentum model (ALBEF, section 3.3)."""

import torch
from torch import Tensor


def soft_targets(hard: Tensor, logits_m: Tensor, alpha: float | Tensor) -> Tensor:
    """Return ``alpha * softmax(logits_m) + (1 - alpha) * hard``; all (B, C), no gradient.

    It is momentum distillation (ALBEF, section 3.3).
    """
    return alpha * torch.softmax(logits_m.detach().float(), dim=1) + (1 - alpha) * hard


def soft_labels(hard: Tensor, logits_m: Tensor, alpha: float | Tensor) -> Tensor:
    """Return ``alpha * sigmoid(logits_m) + (1 - alpha) * hard``; all (B, C), no gradient."""
    return alpha * torch.sigmoid(logits_m.detach().float()) + (1 - alpha) * hard


def ramp(epoch: float) -> float:
    """Return the factor of distillation's weight: 0 to 1 over the first epoch, then 1."""
    return min(1.0, epoch)
