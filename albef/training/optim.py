"""The optimizers of a training, and its learning rate by step."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from albef.config import fixed
from albef.models.encoders import Encoder
from albef.models.kernels import blocks_of
from albef.tasks.task import MUON_MOMENTUM, WARMUP_BLOCK, TrainingConfig

ORIGINAL_START = 1e-5
"""Learning rate before the first block of the original's warm-up, equal in all its trainings."""


def adamw(module: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Return fused AdamW (0.9, 0.999, 1e-8) over the trainable parameters."""
    decayed, plain = _parameters(module)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, fused=True)


def _parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters with weight decay, and those without.

    As in the original, only biases and one-dimensional tensors have no decay.
    """
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    plain = {name: p for name, p in learning.items() if p.ndim == 1 or name.endswith("bias")}
    return [p for name, p in learning.items() if name not in plain], [*plain.values()]


def scale_layers(optimizer: Optimizer, task: nn.Module, decay: float) -> None:
    """Split the groups of an optimizer by depth; ``scale`` of each is its share of the rate.

    The rate of an encoder's block is ``decay`` times that of the block above it.
    """
    scales: dict[nn.Parameter, float] = {}
    for encoder in task.modules():
        if isinstance(encoder, Encoder):
            depths, blocks = encoder.depths()
            scales |= {p: decay ** (blocks + 1 - depths[n]) for n, p in encoder.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        by_scale: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            by_scale[scales.get(parameter, 1.0)].append(parameter)
        groups += [{**group, "params": part, "scale": s} for s, part in sorted(by_scale.items())]
    optimizer.param_groups[:] = groups


class Muon(AdamW):
    """Muon (Jordan et al., 2024) for the matrices of layers, :func:`adamw` for other parameters.

    The root mean square of an update is the learning rate for any shape of the matrix (Liu et al.,
    2025, arXiv:2502.16982).
    """

    def __init__(
        self, module: nn.Module, lr: float, weight_decay: float, momentum: float = MUON_MOMENTUM
    ) -> None:
        blocks = (block.named_parameters() for block in blocks_of(module))
        in_layers = {p for block in blocks for name, p in block if name.endswith("weight")}
        decayed, plain = _parameters(module)
        matrices = [p for p in decayed if p in in_layers and p.ndim == 2]
        others = [p for p in decayed if p not in {*matrices}]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": others, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr, fused=True)
        # torch scales by another 0.2, so its rate is 5 times ours, and its decay a fifth.
        rms = "match_rms_adamw"
        self._muon = torch.optim.Muon(matrices, lr, weight_decay / 5, momentum, adjust_lr_fn=rms)
        for matrix in matrices:
            self.state[matrix]["step"] = torch.zeros(())  # AdamW expects it when it loads a state
        self._step_supports_amp_scaling = False  # the scaler itself skips a step with overflow

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        matrices, *others = self.param_groups
        self._muon.state = self.state  # load_state_dict replaces it
        self._muon.param_groups[0]["lr"] = 5 * matrices["lr"]
        self._muon.step()
        self.param_groups = others
        try:
            super().step()
        finally:
            self.param_groups = [matrices, *others]


OPTIMIZERS = {"adamw": adamw, "muon": Muon}
"""Optimizers by their name in ``optimizer``."""


def optimizer_of(task: nn.Module, config: TrainingConfig) -> AdamW:
    """Return the optimizer of a training."""
    values = task, fixed(config.lr), fixed(config.weight_decay)
    if config.optimizer == "muon":
        return Muon(*values, config.muon_momentum)
    return adamw(*values)


def rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of an optimizer step, from 0, by the schedule of ``config``."""
    lr, min_lr, warmup = fixed(config.lr), config.min_lr, config.warmup_steps
    if config.schedule == "original":
        span = steps_per_epoch, config.epochs
        return original(step, *span, lr=lr, min_lr=min_lr, warmup_steps=warmup)
    total = config.epochs * steps_per_epoch
    return cosine(step, total, lr=lr, min_lr=min_lr, warmup_steps=warmup)


def cosine(step: int, total: int, *, lr: float, min_lr: float, warmup_steps: int) -> float:
    """Return the rate of the cosine schedule.

    It is linear from ``min_lr`` to ``lr`` over ``warmup_steps``, then half a cosine to ``min_lr``.
    ``step`` is the optimizer step, from 0. A warm-up longer than ``total`` is cut to it.
    """
    warmup = min(warmup_steps, total)
    if step < warmup:
        return min_lr + (lr - min_lr) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def original(
    step: int, steps_per_epoch: int, epochs: int, *, lr: float, min_lr: float, warmup_steps: int
) -> float:
    """Return the rate of the original code's staircase.

    In the first epoch, each block of 100 steps climbs from :data:`ORIGINAL_START` towards ``lr``.
    Each later epoch has one value of a cosine, which would reach ``min_lr`` after the last epoch.
    ``warmup_steps`` is a multiple of 100.
    """
    epoch, inside = divmod(step, steps_per_epoch)
    if epoch == 0:
        stairs = warmup_steps // WARMUP_BLOCK
        climbed = max(0, inside - 1) // WARMUP_BLOCK  # the first block has 101 steps
        if climbed < stairs:
            return ORIGINAL_START + (lr - ORIGINAL_START) * climbed / stairs
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
