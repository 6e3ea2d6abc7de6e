"""Several processes that work on one model, started by torchrun or alike; alone, all of it is free.

In training each has its own micro-batches of a step: gradients are averaged over all of them and
features gathered. In evaluation each has its own batches of a split, whose results are joined.
Whatever touches the disk is done by the first process alone.
"""

import contextlib
import datetime as dt
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
STEP_PATIENCE, PATIENCE = dt.timedelta(minutes=15), dt.timedelta(hours=6)
"""How long a process waits for the others in a step, and for what the first one does alone, as to
evaluate or write. One that died is noticed at once: by the launcher, and over gloo."""
_patient: distributed.ProcessGroup | None = None
"""Of all processes, over gloo, for what the first one does alone."""


class ProcessLost(ConnectionError):
    """Another process of this training has ended; what was saved last is kept."""


@dataclass(frozen=True)
class World:
    """The processes of a training: how many there are, and the number of this one, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def parallel(self, task: nn.Module, compress: bool = False) -> nn.Module:
        """``task``, whose backward averages gradients over all processes; weights of the first.

        Every parameter that learns has to take part in each loss: a task freezes what its values
        leave out. With ``compress`` gradients are exchanged in bfloat16, half as large.
        """
        if self.size == 1:
            return task
        # Buffers (the queue) change by the same enqueue everywhere.
        model = DistributedDataParallel(task, broadcast_buffers=False, gradient_as_bucket_view=True)
        if compress:
            model.register_comm_hook(None, _averaged_in_bfloat16)
        return model

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Leave gradients unaveraged inside: the last micro-batch of a step averages for all."""
        if isinstance(model, DistributedDataParallel):
            return model.no_sync()
        return contextlib.nullcontext()

    def all_gather(self, outputs: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The tensors (B, ...) of all processes' micro-batches, in the order of the micro-batches.

        Scalars are left out. Each process has as many outputs, of one shape.
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
        """Scalars, averaged over the processes."""
        if self.size == 1 or not values:
            return dict(values)
        joined = torch.stack([value.float() for value in values.values()])
        distributed.all_reduce(joined)
        return dict(zip(values, joined / self.size, strict=True))

    def all_reduce_max(self, value: int, device: torch.device) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return value
        number = torch.tensor(value, device=device)
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return int(number)

    def all_reduce_min(self, value: Tensor) -> int:
        """The smallest of the processes' numbers, each a scalar on the device."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value, distributed.ReduceOp.MIN)
        return int(value)

    def share(self, count: int) -> range:
        """Which of so many things in a row are this process', as even a part as can be."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def join(self, part: Sequence[T]) -> list[T]:
        """The parts of all processes, one after the other, in each of them.

        They are plain values or tensors in the host's memory.
        """
        parts: list[Any] = [part]
        if self.size > 1:
            parts *= self.size
            distributed.all_gather_object(parts, part, group=_patient)
        return list(itertools.chain.from_iterable(parts))

    def broadcast(self, make: Callable[[], T]) -> T:
        """What the first process makes, a plain value, in all processes, which wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        distributed.broadcast_object_list(box, group=_patient)
        value: T = box[0]
        return value


def _averaged_in_bfloat16(
    group: None,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """As torch's own hook does, which refuses to over gloo."""
    half = bucket.buffer().to(torch.bfloat16).div_(distributed.get_world_size())
    work = distributed.all_reduce(half, async_op=True)
    future: torch.futures.Future[list[Tensor]] = work.get_future()
    return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))


def world() -> World:
    """The processes that train together here; one, outside :func:`joined`."""
    if not distributed.is_initialized():
        return World()
    return World(distributed.get_rank(), distributed.get_world_size())


def launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in os.environ


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Be one of the launched processes while inside; the device of this process.

    One that fails leaves without a word to the others: NCCL's would wait for them, and the launcher
    not see that it ends.

    Raises:
        ProcessLost: another one has ended.
    """
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    global _patient
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=STEP_PATIENCE)
    patient: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)  # of all processes
    _patient = patient
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise ProcessLost("another process of the training has ended") from error
        raise
    distributed.destroy_process_group()
