"""Blocks compiled by torch: fewer and larger kernels, for GPUs."""

import torch
from timm.models.vision_transformer import Block
from torch import nn

from albef.models.bert import BertLayer

VARIANTS = 64
"""Of one block's code at most: for a student and a twin, the passes that read it, and lengths."""


def compile_blocks(module: nn.Module, **options: object) -> None:
    """Have every block of the image, text and fusion encoders in ``module`` compiled when called.

    In place: the names of parameters stay as they are. Equal blocks share what is compiled.

    Args:
        module: holds the encoders.
        options: of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    for part in module.modules():
        if isinstance(part, Block | BertLayer):
            part.compile(**options)
