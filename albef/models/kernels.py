"""Kernels that compute the same result faster, in a fixed order, or in less memory.

`benchmarks/step.py` measures their effect. Shapes: B batch, H heads, L queries, N keys, D width.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from albef.models.encoders import Encoder

VARIANTS = 64
"""Maximum number of compiled variants of a block's code: student and momentum model, the passes
that use it, lengths."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, N, D / H)."""


def on_cpu_in_16_bits(states: Tensor) -> bool:
    """Return whether the products of states are computed on a CPU in 16 bits.

    Attention as two products is then faster than the fused kernel, whose backward pass is slow,
    especially with few tokens.
    """
    return states.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def narrowed(states: Tensor) -> Tensor:
    """Return states (B, L, D) in 16 bits if their products are computed on a CPU in 16 bits.

    Layers then keep this type. Additions and norms of float32 would read and write twice the bytes,
    and each product would convert its input.
    """
    return states.to(torch.get_autocast_dtype("cpu")) if on_cpu_in_16_bits(states) else states


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
) -> Tensor:
    """Compute attention of queries (B, H, L, D / H) to N keys and values: (B, H, L, D / H).

    ``bias`` is additive, broadcastable to (B, H, L, N). ``dropout`` is a share of the weights.
    """
    bias = None if bias is None else bias.to(key.dtype)
    if not on_cpu_in_16_bits(query):
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    return F.dropout(weights, dropout) @ value


def rows(states: Tensor, positions: Tensor | slice) -> Tensor:
    """Return the states (B, L, D) at ``positions``: (B, M, D).

    ``positions`` are (B, M), or a slice that is the same for each text. This is one
    ``index_select`` of the flattened states. The backward of a gather is many times slower on a
    CPU. The backward of an index by tensor adds in an order that changes from run to run.
    """
    if isinstance(positions, slice):
        return states[:, positions]
    start = torch.arange(len(states), device=states.device)[:, None] * states.shape[1]
    chosen = states.flatten(0, 1).index_select(0, (start + positions).flatten())
    return chosen.view(*positions.shape, states.shape[2])


def select(image: list[KeyValue], index: Tensor) -> list[KeyValue]:
    """Return the keys and values of the images at ``index`` (P,), one pair per layer.

    Their gradients are products with rows of 0 and 1, which add in a fixed order. On a CPU, this is
    faster than to add row by row.
    """
    apply: Any = _Select.apply
    return [(apply(key, index), apply(value, index)) for key, value in image]


class _Select(torch.autograd.Function):
    """Rows of a tensor, by an index (P,)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, index: Tensor) -> Tensor:
        """Return the rows (P, ...) of (B, ...)."""
        ctx.save_for_backward(index)
        ctx.rows = len(states)
        # In this order, attention reads the rows. Otherwise, it would copy all P of them.
        return states.contiguous().index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the sums (B, ...) of the gradients (P, ...) of each row."""
        (index,) = ctx.saved_tensors
        each = torch.arange(ctx.rows, device=index.device)[:, None]
        sums = (each == index).to(gradient.dtype) @ gradient.flatten(1)
        return sums.view(-1, *gradient.shape[1:]), None


class Layer(nn.Module):
    """A layer that can be recomputed in the backward pass, and compiled."""

    recompute = False

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Call :meth:`compute`, and keep its activations or recompute them later."""
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(self.compute, *given, use_reentrant=False, **named)
            return again
        return self.compute(*given, **named)

    def compute(self, *given: Any, **named: Any) -> Tensor:
        """Compute the layer's output."""
        raise NotImplementedError


def recompute(module: nn.Module, on: bool) -> None:
    """Enable or disable recomputation in every block of the encoders in ``module``.

    The encoders are the image, text and fusion encoders. Losses and gradients are the same, dropout
    included. A block keeps only its input.
    """
    submodule: Any
    for submodule in module.modules():
        if isinstance(submodule, Layer):
            submodule.recompute = on
        elif hasattr(submodule, "set_grad_checkpointing"):  # a network of timm
            submodule.set_grad_checkpointing(on)
        elif on and hasattr(submodule, "activation_checkpointing_enable"):  # one of transformers
            submodule.activation_checkpointing_enable({"use_reentrant": False})


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of the encoders and decoders in ``module``."""
    parts = [*module.modules()]
    layers = [part for part in parts if isinstance(part, Layer)]
    inside = [block for part in parts if isinstance(part, Encoder) for block in part.blocks]
    return list(dict.fromkeys([*layers, *inside]))


def compile_blocks(module: nn.Module, **options: object) -> None:
    """Compile every block of the encoders and decoders in ``module`` at its first call.

    This happens in place: the names of parameters do not change. Equal blocks share compiled code.
    ``options`` are those of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    for block in blocks_of(module):
        block.compile(**options)


Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
"""Precision of matrix products; ``tf32`` is float32 whose products a GPU rounds to 10 bits."""


def product_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type of matrix products under autocast, or None for float32.

    For float32 this also sets torch's float32 precision. ``auto`` is a fixed rule instead of a
    timing, so the same machine always computes the same result.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether products in bfloat16 are faster on a device.

    They are on a GPU that supports bfloat16, and on a CPU with AVX-512 BF16 or AMX.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def evaluating(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context that computes in a training's precision.

    If the precision is ``auto`` and the device is a CPU, it computes in float32.
    """
    exact = precision == "auto" and device.type == "cpu"
    dtype = product_type("float32" if exact else precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
