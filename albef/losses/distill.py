"""Momentum distillation: targets softened by the twin's predictions (ALBEF, section 3.3)."""

import torch
from torch import Tensor


def soft_targets(hard: Tensor, logits_m: Tensor, alpha: float | Tensor) -> Tensor:
    """``alpha * softmax(logits_m) + (1 - alpha) * hard``; (B, C), (B, C) -> (B, C), no gradient."""
    return alpha * torch.softmax(logits_m.detach().float(), dim=1) + (1 - alpha) * hard


def ramp(epoch: float) -> float:
    """Share of distillation's weight after ``epoch`` epochs: 0 to 1 over the first, then 1."""
    return min(1.0, epoch)
