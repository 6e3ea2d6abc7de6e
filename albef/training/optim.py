"""The optimizers of a training, and its learning rate by step."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from albef.config import fixed
from albef.models.encoders import Encoder
from albef.models.kernels import blocks_of, has_bfloat16
from albef.tasks.task import MUON_MOMENTUM, WARMUP_BLOCK, TrainingConfig

ORIGINAL_START = 1e-5
"""Learning rate before the first block of the original's warm-up, equal in all its trainings."""
_POLYNOMIALS = (
    (8.3007, -24.0375, 17.4661),
    (4.0034, -2.9228, 0.5419),
    (3.4709, -2.5494, 0.5002),
    (2.4901, -1.8343, 0.4368),
)
"""Coefficients of x, x^3 and x^5. Applied in turn, they bring 0.003 to 1 as close to 1 as possible.
All but the last are for values up to 1 % too large, because of rounding."""


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

    The momentum G = U S V' becomes about U V', by four steps of a Newton-Schulz iteration, each
    with its own polynomial (Amsel et al., 2025, arXiv:2505.16932). It is scaled so that the root
    mean square of an update is the learning rate for any shape of the matrix (Liu et al., 2025,
    arXiv:2502.16982). Queries, keys and values in one matrix are split into three.
    """

    def __init__(
        self, module: nn.Module, lr: float, weight_decay: float, momentum: float = MUON_MOMENTUM
    ) -> None:
        self.momentum = momentum
        blocks = (block.named_parameters() for block in blocks_of(module))
        named = {p: name for block in blocks for name, p in block if name.endswith("weight")}
        self._qkv = {p for p, name in named.items() if name.endswith("qkv.weight")}
        decayed, plain = _parameters(module)
        matrices = [p for p in decayed if p in named and p.ndim == 2]
        others = [p for p in decayed if p not in {*matrices}]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": others, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr, fused=True)
        self._step_supports_amp_scaling = False  # the scaler itself skips a step with overflow

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        matrices, *others = self.param_groups
        self._move(matrices["params"], matrices["lr"], matrices["weight_decay"])
        self.param_groups = others
        try:
            super().step()
        finally:
            self.param_groups = [matrices, *others]

    def _move(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        """Update the momenta, and the matrices by them; those of equal shape at once."""
        gradients = {matrix: matrix.grad for matrix in matrices if matrix.grad is not None}
        for matrix in gradients:
            if not self.state[matrix]:  # AdamW's names, for its state_dict
                start = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(matrix)}
                self.state[matrix] |= start
        if not gradients:
            return
        momenta, latest = [self.state[m]["exp_avg"] for m in gradients], [*gradients.values()]
        torch._foreach_lerp_(momenta, latest, 1 - self.momentum)
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        ahead = torch._foreach_lerp(latest, momenta, self.momentum)
        for matrix, update in zip(gradients, ahead, strict=True):
            parts = 3 if matrix in self._qkv else 1
            for pair in zip(matrix.chunk(parts), update.chunk(parts), strict=True):
                by_shape[pair[0].shape].append(pair)
        for shape, pairs in by_shape.items():
            moved = orthogonalised(torch.stack([update for _, update in pairs])).unbind()
            targets = [part for part, _ in pairs]
            torch._foreach_mul_(targets, 1 - lr * weight_decay)
            torch._foreach_sub_(targets, moved, alpha=lr * math.sqrt(max(shape)))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return the nearest matrices (K, M, N) of equal singular values, about 0.8 to 1.2 each.

    Singular values below three thousandths of the norm stay smaller.
    """
    norm: Tensor = torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)
    dtype = torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32
    x = (matrices / (1.01 * norm)).to(dtype)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    for a, b, c in _POLYNOMIALS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


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
