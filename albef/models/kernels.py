"""Tricks of processors: the same numbers faster, in a fixed order, or in less memory.

`benchmarks/step.py` shows what they come to. Shapes: B batch, H heads, L queries, N keys, D width.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

UNFUSED_TOKENS = 128
"""Up to here plain products of matrices are faster on a processor than timm's fused attention (1.2x
for a whole training step at 65 tokens in bfloat16), and their (N, N) weights are small."""
VARIANTS = 64
"""Compiled of one block's code at most: for student and twin, the passes that read it, lengths."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, N, D / H)."""


def products_pay(states: Tensor) -> bool:
    """Whether attention as two products is faster, forward and backward, than the fused kernel.

    It is on a processor in 16 bits, whose fused backward is slow, the more so the fewer the tokens.
    In float32, and without gradient, it is not.
    """
    on_cpu = states.device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
) -> Tensor:
    """Attention of queries (B, H, L, D / H) to N keys and values: (B, H, L, D / H).

    ``bias`` is additive, broadcastable to (B, H, L, N); ``dropout`` a share of the weights.
    """
    bias = None if bias is None else bias.to(key.dtype)
    if not products_pay(query):
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return F.dropout(weights, dropout) @ value


@contextlib.contextmanager
def attention_as_products(vit: VisionTransformer) -> Iterator[None]:
    """A ViT's attention as two products while inside."""
    before = [block.attn.fused_attn for block in vit.blocks]
    for block in vit.blocks:
        block.attn.fused_attn = False
    try:
        yield
    finally:
        for block, fused in zip(vit.blocks, before, strict=True):
            block.attn.fused_attn = fused


def rows(states: Tensor, positions: Tensor | slice) -> Tensor:
    """The states (B, L, D) at ``positions`` (B, M), or at the same of each text: (B, M, D).

    One ``index_select`` of the flattened states: the backward of a gather is many times slower on
    a CPU, and that of an index by tensor adds in an order that changes from run to run.
    """
    if isinstance(positions, slice):
        return states[:, positions]
    start = torch.arange(len(states), device=states.device)[:, None] * states.shape[1]
    chosen = states.flatten(0, 1).index_select(0, (start + positions).flatten())
    return chosen.view(*positions.shape, states.shape[2])


def select(image: list[KeyValue], index: Tensor) -> list[KeyValue]:
    """The keys and values of the images at ``index`` (P,), one pair a layer.

    Where they are differentiated it is a product with rows of 0 and 1: exact too, its backward is
    another product, in a fixed order, and on a CPU faster than adding row by row.
    """
    return [(_select(key, index), _select(value, index)) for key, value in image]


def _select(states: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, H, N, D / H): (P, H, N, D / H)."""
    if not (torch.is_grad_enabled() and states.requires_grad):
        return states.index_select(0, index)
    one_hot = (index[:, None] == torch.arange(len(states), device=index.device)).to(states.dtype)
    by_token = states.transpose(1, 2)  # as it lies in memory
    return (one_hot @ by_token.flatten(1)).view(-1, *by_token.shape[1:]).transpose(1, 2)


class Layer(nn.Module):
    """A layer that can be computed again in the backward pass, and compiled."""

    recompute = False

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """:meth:`compute`, whose activations are kept or not."""
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(self.compute, *given, use_reentrant=False, **named)
            return again
        return self.compute(*given, **named)

    def compute(self, *given: Any, **named: Any) -> Tensor:
        """What the layer does."""
        raise NotImplementedError


def recompute(module: nn.Module, on: bool) -> None:
    """Have every block of the image, text and fusion encoders in ``module`` recomputed, or not.

    Losses and gradients are the same, dropout included. A block keeps its input alone.
    """
    for submodule in module.modules():
        if isinstance(submodule, VisionTransformer):
            submodule.set_grad_checkpointing(on)
        elif isinstance(submodule, Layer):
            submodule.recompute = on


def compile_blocks(module: nn.Module, **options: object) -> None:
    """Have every block of the image, text and fusion encoders in ``module`` compiled when called.

    In place: the names of parameters stay as they are. Equal blocks share what is compiled.

    Args:
        module: holds the encoders.
        options: of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    for submodule in module.modules():
        if isinstance(submodule, Block | Layer):
            submodule.compile(**options)


Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
"""Of matrix products; ``tf32`` is float32 whose products a GPU rounds to 10 bits."""


def product_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type of matrix products under autocast, or None for float32, whose own are set here.

    ``auto`` is a rule, not a timing, so that the same machine always computes the same.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster: on a GPU that has it, and on a processor with
    AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def evaluating(precision: Precision, device: torch.device) -> torch.autocast:
    """Compute as a training of that precision does while inside; where it is ``auto`` on a
    processor, in float32."""
    exact = precision == "auto" and device.type == "cpu"
    dtype = product_type("float32" if exact else precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
