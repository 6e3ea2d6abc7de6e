"""What a step on a GPU must not do, found on a fake one.

An operation on two devices raises an error, and so does one that reads a value.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
    """

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__()
        self.names: set[str] = set()
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
        assert len(devices) <= 1, f"{name} copies between devices"
        dtypes = {tensor.dtype for tensor in made if tensor.is_floating_point()}
        assert dtypes <= self._dtypes, f"{name} computes in {dtypes}"
        assert not REFUSED.match(name), f"{name} has no deterministic form on a GPU"
        assert name != WAITING, f"{name} waits for the device"
        return result


def named(operations: Operations, pattern: re.Pattern[str]) -> set[str]:
    """The operations inside whose name matches."""
    return {name for name in operations.names if pattern.match(name)}
