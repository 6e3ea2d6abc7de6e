"""Learning rate by optimizer step."""

import math


def cosine(step: int, total: int, *, lr: float, min_lr: float, warmup_steps: int) -> float:
    """Linear from ``min_lr`` to ``lr`` over ``warmup_steps``, then half a cosine to ``min_lr``.

    Args:
        step: optimizer step, from 0.
        total: optimizer steps of the whole training.
        lr: highest rate.
        min_lr: lowest rate.
        warmup_steps: optimizer steps; cut to ``total`` where longer.
    """
    warmup = min(warmup_steps, total)
    if step < warmup:
        return min_lr + (lr - min_lr) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
