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


def products_pay(states: Tensor) -> bool:
    """Return whether attention as two products is faster than the fused kernel.

    It is, for forward and backward together, on a CPU in 16 bits: the fused backward is slow there,
    especially with few tokens (1.2x for a whole training step at 65). It is not in float32 or
    without gradient.
    """
    on_cpu = states.device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
) -> Tensor:
    """Compute attention of queries (B, H, L, D / H) to N keys and values: (B, H, L, D / H).

    ``bias`` is additive, broadcastable to (B, H, L, N). ``dropout`` is a share of the weights.
    """
    bias = None if bias is None else bias.to(key.dtype)
    if not products_pay(query):
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

    If they need a gradient, this is a product with rows of 0 and 1. The product is exact too. Its
    backward is another product, in a fixed order, and faster on a CPU than adding row by row.
    """
    return [(_select(key, index), _select(value, index)) for key, value in image]


def _select(states: Tensor, index: Tensor) -> Tensor:
    """Select rows of (B, H, N, D / H): (P, H, N, D / H)."""
    if not (torch.is_grad_enabled() and states.requires_grad):
        return states.index_select(0, index)
    one_hot = (index[:, None] == torch.arange(len(states), device=index.device)).to(states.dtype)
    by_token = states.transpose(1, 2)  # the order in memory
    return (one_hot @ by_token.flatten(1)).view(-1, *by_token.shape[1:]).transpose(1, 2)


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
