"""The optimizer of every training."""

from torch import nn
from torch.optim import AdamW


def adamw(module: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Fused AdamW (0.9, 0.999, 1e-8) over the parameters that learn.

    Biases and one-dimensional tensors are not decayed; as in the original, the temperature (of
    no dimension), class token, position and word embeddings are.
    """
    groups: list[dict[str, object]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim == 1 or name.endswith(".bias")
            group = groups[plain]["params"]
            assert isinstance(group, list)
            group.append(parameter)
    return AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)
