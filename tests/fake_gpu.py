"""What a step on a GPU must not do, found on a fake one; and a fake one that has values.

An operation on two devices raises an error, and so does one that reads a value in a step.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pipelines.fake_gpu import DEVICE

REFUSED = re.compile(
    r"(avg_pool3d|adaptive_avg_pool[23]d|adaptive_max_pool2d|fractional_max_pool|upsample_\w*linear\w*"
    r"|upsample_bicubic\w*|reflection_pad|ctc_loss|embedding_bag|grid_sampler)\w*_backward"
    r"|max_unpool|nll_loss2d|put$|put_$|histc|bincount|median|cumsum"
)
"""Operations that ``torch.use_deterministic_algorithms`` refuses on a GPU, from its docstring."""
WAITING = "multinomial"
"""Operation that waits for a GPU, though its result depends on no value in size."""
SLOWER = re.compile(
    r"index_add|scatter|gather|index_copy|repeat_interleave|replication_pad|max_pool3d_with"
    r"|convolution_backward|index_put"
)
"""Operations for which it chooses another, slower algorithm."""


class Operations(TorchDispatchMode):
    """Records the names of operations inside, and refuses what a step on a GPU must not do.

    Args:
        dtypes: types of floating-point numbers that may be computed.
        copies: whether tensors may be copied between devices, if nothing waits for it.
    """

    def __init__(self, *dtypes: torch.dtype, copies: bool = False) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._copies = copies
        self._dtypes = {torch.float32, *dtypes}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.names.add(name)
        results = result if isinstance(result, tuple | list) else [result]
        made = [tensor for tensor in results if isinstance(tensor, Tensor)]
        devices = {t.device.type for t in (*args, *made) if isinstance(t, Tensor) and t.dim()}
        is_free = self._copies and (kwargs or {}).get("non_blocking")
        assert len(devices) <= 1 or is_free, f"{name} copies between devices"
        # A scaler computes the reciprocal of its scale in float64.
        dtypes = {tensor.dtype for tensor in made if tensor.is_floating_point() and tensor.dim()}
        assert dtypes <= self._dtypes, f"{name} computes in {dtypes}"
        assert not REFUSED.match(name), f"{name} has no deterministic form on a GPU"
        assert name != WAITING, f"{name} waits for the device"
        return result


def named(operations: Operations, pattern: re.Pattern[str]) -> set[str]:
    """The operations inside whose name matches."""
    return {name for name in operations.names if pattern.match(name)}


class Valued(Tensor):
    """A tensor on the fake GPU that has values, which the CPU computes."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "Valued":
        made: Valued = Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=DEVICE
        )
        made.value = value
        return made

    def tolist(self) -> Any:
        return self.value.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        on_gpu = any(isinstance(tensor, Valued) for tensor in given)
        if name not in ("_to_copy", "copy_"):
            kinds = {isinstance(tensor, Valued) for tensor in given if tensor.dim()}
            assert len(kinds) <= 1, f"{name} has tensors on two devices"
        if device := kwargs.get("device"):
            on_gpu = device == DEVICE
            kwargs["device"] = torch.device("cpu")
        given, named = tree_map_only(Valued, lambda tensor: tensor.value, (args, kwargs))
        result = func(*given, **named)
        if name.endswith("_"):  # in place
            return args[0]
        return tree_map_only(Tensor, Valued, result) if on_gpu else result


class ValuedGpu(TorchDispatchMode):
    """A context in which the fake GPU computes, as slowly as the CPU."""

    def __enter__(self) -> Any:
        # Lists become tensors there in C++, which calls no mode.
        self._library = torch.library.Library("aten", "IMPL")
        self._library.impl("empty_strided", self._empty, "PrivateUse1")
        self._library.impl("_copy_from", self._copy, "PrivateUse1")
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._library._destroy()

    @staticmethod
    def _empty(size: Any, stride: Any, *, dtype: torch.dtype, **_: object) -> Tensor:
        return Valued(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    @staticmethod
    def _copy(source: Tensor, target: Valued, non_blocking: bool = False) -> Tensor:
        target.value.copy_(source)
        return target

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return Valued.__torch_dispatch__(func, types, args, kwargs)
