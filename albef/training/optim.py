"""The optimizer of every training, and its learning rate by step."""

import math

from torch import nn
from torch.optim import AdamW

from albef.config import fixed
from albef.tasks.task import WARMUP_BLOCK, TrainingConfig

ORIGINAL_START = 1e-5
"""Rate before the first block of the original's warm-up, the same in each of its trainings."""


def adamw(module: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Fused AdamW (0.9, 0.999, 1e-8) over the parameters that learn.

    Biases and one-dimensional tensors are not decayed; as in the original, the temperature (of
    no dimension), class token, position and word embeddings are.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim == 1 or name.endswith(".bias")
            (plain if is_plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of an optimizer step, from 0, by the schedule that ``config`` names."""
    lr, min_lr, warmup = fixed(config.lr), config.min_lr, config.warmup_steps
    if config.schedule == "original":
        span = steps_per_epoch, config.epochs
        return original(step, *span, lr=lr, min_lr=min_lr, warmup_steps=warmup)
    total = config.epochs * steps_per_epoch
    return cosine(step, total, lr=lr, min_lr=min_lr, warmup_steps=warmup)


def cosine(step: int, total: int, *, lr: float, min_lr: float, warmup_steps: int) -> float:
    """Linear from ``min_lr`` to ``lr`` over ``warmup_steps``, then half a cosine to ``min_lr``.

    ``step`` is the optimizer's, from 0; a warm-up longer than the ``total`` is cut to it.
    """
    warmup = min(warmup_steps, total)
    if step < warmup:
        return min_lr + (lr - min_lr) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def original(
    step: int, steps_per_epoch: int, epochs: int, *, lr: float, min_lr: float, warmup_steps: int
) -> float:
    """The staircase of the original code: one rate a block of 100 steps, then one an epoch.

    The first epoch climbs from :data:`ORIGINAL_START` to ``lr``, a step of the stairs every 100
    steps, and stays there; each later epoch has one value of a cosine. A first epoch shorter than
    the warm-up ends low, and the second jumps. ``min_lr`` would be reached after the last one;
    ``warmup_steps`` is a multiple of 100.
    """
    epoch, inside = divmod(step, steps_per_epoch)
    if epoch == 0:
        stairs = warmup_steps // WARMUP_BLOCK
        climbed = max(0, inside - 1) // WARMUP_BLOCK  # the first block has 101 steps
        if climbed < stairs:
            return ORIGINAL_START + (lr - ORIGINAL_START) * climbed / stairs
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
