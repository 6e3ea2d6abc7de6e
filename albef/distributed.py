"""Several processes that work on one model, started by torchrun or a similar launcher.

Each process has its own micro-batches of a training step, whose gradients are averaged, or batches
of a split, whose results are joined. Only the first process writes to disk.
"""

import contextlib
import datetime as dt
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
STEP_TIMEOUT, TIMEOUT = dt.timedelta(minutes=15), dt.timedelta(hours=6)
"""Time limits for waiting on other processes: in a step, and for work that only the first process
does, such as evaluating or writing. The launcher, and gloo, detect a dead process at once."""
_patient_group: distributed.ProcessGroup | None = None
"""Group of all processes, over gloo, for work that only the first process does."""


class ProcessLostError(ConnectionError):
    """The end of another process of this training; the last training checkpoint is kept."""


@dataclass(frozen=True)
class World:
    """The processes of a training: their number, and the rank of this one, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True if this process is the one that writes."""
        return self.rank == 0

    def parallel(self, task: nn.Module, compress: bool = False) -> nn.Module:
        """Return ``task`` with gradients averaged over all processes; weights are the first's.

        Every trainable parameter must take part in each loss. ``compress`` exchanges gradients in
        bfloat16, at half the size.
        """
        if self.size == 1:
            return task
        # Every process applies the same enqueue, so buffers (the queue) stay equal.
        with warnings.catch_warnings():  # What replaces broadcast_buffers needs the newest torch.
            warnings.simplefilter("ignore", FutureWarning)
            model = DistributedDataParallel(
                task, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        if compress:
            model.register_comm_hook(None, _averaged_in_bfloat16)
        return model

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Skip averaging inside the context; the last micro-batch of a step averages for all."""
        if isinstance(model, DistributedDataParallel):
            return model.no_sync()
        return contextlib.nullcontext()

    def all_gather(self, outputs: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Gather the tensors (B, ...) of all processes' micro-batches in order, without scalars.

        Each process has the same number of outputs, of the same shape.
        """
        local = [{n: t for n, t in output.items() if t.ndim} for output in outputs]
        if self.size == 1:
            return local
        joined: dict[str, Tensor] = {}
        for name in local[0]:
            stacked = torch.stack([output[name] for output in local])
            parts = [torch.empty_like(stacked) for _ in range(self.size)]
            distributed.all_gather(parts, stacked)
            joined[name] = torch.cat(parts)
        return [{n: t[i] for n, t in joined.items()} for i in range(self.size * len(local))]

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average scalars over the processes."""
        if self.size == 1 or not values:
            return dict(values)
        joined = torch.stack([value.float() for value in values.values()])
        distributed.all_reduce(joined)
        return dict(zip(values, joined / self.size, strict=True))

    def all_reduce_max(self, value: int, device: torch.device) -> int:
        """Return the largest of the processes' numbers; a single process waits for no device."""
        if self.size == 1:
            return value
        number = torch.tensor(value, device=device)
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return int(number)

    def all_reduce_min(self, value: Tensor) -> int:
        """Return the smallest of the processes' numbers, each a scalar on the device."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value, distributed.ReduceOp.MIN)
        return int(value)

    def share(self, count: int) -> range:
        """Return this process' part of ``count`` items in a row, split evenly."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def join(self, part: Sequence[T]) -> list[T]:
        """Concatenate the parts of all processes: plain values, or tensors in host memory."""
        parts: list[Any] = [part]
        if self.size > 1:
            parts *= self.size
            distributed.all_gather_object(parts, part, group=_patient_group)
        return list(itertools.chain.from_iterable(parts))

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return a plain value that the first process makes; all processes wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        distributed.broadcast_object_list(box, group=_patient_group)
        value: T = box[0]
        return value


def _averaged_in_bfloat16(
    group: None,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Average gradients in bfloat16, like torch's hook, which does not support gloo."""
    half = bucket.buffer().to(torch.bfloat16).div_(distributed.get_world_size())
    work = distributed.all_reduce(half, async_op=True)
    future: torch.futures.Future[list[Tensor]] = work.get_future()
    return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))


def world() -> World:
    """Return the processes that train together; outside :func:`joined` it is one."""
    if not distributed.is_initialized():
        return World()
    return World(distributed.get_rank(), distributed.get_world_size())


def launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return "RANK" in os.environ


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the launched processes inside the context, and yield this process' device.

    A process that fails leaves at once: NCCL would wait for the others, and the launcher would not
    see that the process ends.

    Raises:
        ProcessLostError: another process has ended.
    """
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    global _patient_group
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=STEP_TIMEOUT)
    _patient_group = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise ProcessLostError("another process of the training has ended") from error
        raise
    distributed.destroy_process_group()
