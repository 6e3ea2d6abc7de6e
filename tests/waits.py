"""What a GPU's stream has to be waited for, found on any device."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations that read values, or whose result is as large as values say."""
UNTAGGED = {"multinomial", "is_nonzero"}
"""Such operations without the tag."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"lift_fresh"}
"""A tensor of Python's numbers: on a GPU it is copied there, and waited for."""
METHODS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}
"""What takes values away without an operation."""


class Waits(TorchDispatchMode):
    """Tells ``found`` of each operation inside that waits."""

    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name in INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        reads = name not in INDEXED and TAGS.intersection(func.tags)
        if reads or name in UNTAGGED | COPIES or masks:
            self._found(name)
        return func(*args, **(kwargs or {}))


class _Taken(TorchFunctionMode):
    """Refuses :data:`METHODS`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in METHODS:
            _refuse(func.__name__)
        return func(*args, **(kwargs or {}))


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} waits for the device")


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Nothing inside may wait; on a GPU torch's own check looks, too."""
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("error")
    try:
        with Waits(_refuse), _Taken():
            yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
