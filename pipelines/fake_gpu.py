"""A GPU without memory or values, in any build of torch, for a separate process.

Its tensors are fake: they have a shape, a type and a device. The CPU build of torch can neither
index nor differentiate tensors on ``cuda``, for which it has no device guard. The backend here has
one. It follows CUDA's rules of autocast and its choice of attention kernels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("fakegpu", backend_module=_Backend())
DEVICE = torch.device("fakegpu:0")
_aten = torch.ops.aten
_AUTOCAST = torch._C.DispatchKeySet(torch._C._dispatch_key_parse("AutocastPrivateUse1"))
_LOWER = "addmm baddbmm bmm conv2d linear matmul mm scaled_dot_product_attention"
"""Operations that autocast computes in 16 bits on CUDA, of those that occur in a model."""
_FLOAT32 = (
    "binary_cross_entropy_with_logits cumsum exp layer_norm linalg_vector_norm log log_softmax.int "
    "logsumexp nll_loss pow.Tensor_Scalar reciprocal rsqrt softmax.int sum sum.dim_IntList"
)
"""Operations that it computes in float32."""
_any_library, _library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


def _cast(name: str, dtype: torch.dtype | None) -> None:
    """Let autocast compute an operation in a type; None is the type of the context."""
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(_aten, packet), overload or "default")

    def run(*args: Any, **kwargs: Any) -> Any:
        to = dtype or torch.get_autocast_dtype(DEVICE.type)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            given = tree_map_only(Tensor, lambda t: t.to(to) if t.is_floating_point() else t, args)
            return operation(*given, **kwargs)

    _library.impl(operation, run, "AutocastPrivateUse1")


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention like the fused kernels of CUDA, which do not store its weights."""
    given = query, key, value
    if attn_mask is None and query.dtype != torch.float32:
        flash = _aten._scaled_dot_product_flash_attention
        results: tuple[Tensor, ...] = flash(*given, dropout_p, is_causal, scale=scale)
    else:
        shape, keeps = (*query.shape[:3], key.shape[2]), torch.is_grad_enabled()
        bias = None if attn_mask is None else attn_mask.expand(shape)
        efficient = _aten._scaled_dot_product_efficient_attention
        results = efficient(*given, bias, keeps, dropout_p, is_causal, scale=scale)
    return results[0]


_any_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _names, _dtype in ((_LOWER, None), (_FLOAT32, torch.float32)):
    for _name in _names.split():
        _cast(_name, _dtype)
_library.impl(_aten.scaled_dot_product_attention.default, _attention, "AutogradPrivateUse1")


def on_gpu(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """Return a fake tensor like this one, on a GPU."""
    return FakeTensor(mode, tensor.detach().to("meta"), DEVICE)


def move(mode: FakeTensorMode, module: nn.Module) -> None:
    """Put a module on a GPU; parameters that are shared stay so."""
    moved: dict[Tensor, Tensor] = {}

    def to_gpu(tensor: Tensor) -> Tensor:
        if tensor not in moved:
            fake = on_gpu(mode, tensor)
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[tensor] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
        return moved[tensor]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = to_gpu(tensor)  # type: ignore[assignment]
