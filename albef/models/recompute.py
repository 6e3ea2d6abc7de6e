"""Activations computed again in the backward pass instead of kept: less memory, more time."""

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from albef.models.bert import BertLayer


def recompute(module: nn.Module, on: bool) -> None:
    """Have every block of the image, text and fusion encoders in ``module`` recomputed, or not.

    Losses and gradients are the same, dropout included. A block keeps its input alone.
    """
    for part in module.modules():
        if isinstance(part, VisionTransformer):
            part.set_grad_checkpointing(on)
        elif isinstance(part, BertLayer):
            part.recompute = on
