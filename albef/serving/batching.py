"""Micro-batching: what several requests ask for at the same time is computed together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")
_PADDING = 1.5  # most of a batch's tokens, padding included, over its tokens without
_RECENT = 0.2  # weight of the last batch in the running mean of seconds an item


class _Entry(Generic[Item, Result]):
    """An item that waits."""

    __slots__ = ("future", "item", "length", "since")

    def __init__(self, item: Item, length: int, now: float, future: "asyncio.Future[Result]"):
        self.item, self.length, self.since, self.future = item, length, now, future


class Batcher(Generic[Item, Result]):
    """A bounded queue of items and the task that computes them in batches, in a thread.

    An item that arrives while nothing is computed starts at once; those that arrive meanwhile are
    the next batch. Only after a batch of several does the next wait up to ``limits.wait`` for
    company, so a lone client never does. The oldest item is always in the batch; the others are
    those of the most similar lengths. An item that nobody waits for any more is left out.

    Args:
        run: the export's name, for metrics.
        step: what is computed, for metrics and errors.
        compute: items to as many results; called in a thread.
        executor: of the thread.
        limits: ``queue``, ``batch`` and ``wait`` are used.
        metrics: where batches are counted.
        length: of an item, where batches are padded.
    """

    def __init__(
        self,
        run: str,
        step: str,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        limits: Limits,
        metrics: Metrics,
        length: Callable[[Item], int] = lambda item: 1,
    ) -> None:
        self._step, self._compute, self._executor, self._limits = step, compute, executor, limits
        self._length, self._metrics = length, metrics
        self._queue: list[_Entry[Item, Result]] = []
        self._arrived = asyncio.Event()
        self._several = False
        self._pace = 0.0  # seconds an item, lately
        self._items = metrics.items.labels(run, step)
        self._seconds = metrics.computing.labels(run, step)
        self._waiting = metrics.waiting.labels(run, step)
        self._dropped = metrics.dropped.labels(run, step)

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    def room(self, count: int) -> None:
        """See that ``count`` items find room and would be computed in time.

        Raises:
            Problem: 429, with the seconds after which the queue will be shorter.
        """
        ahead = len(self._queue) * self._pace
        if len(self._queue) + count <= self._limits.queue and ahead <= self._limits.seconds:
            return
        self._metrics.refused.labels("queue").inc()
        raise Problem(
            429, "busy", f"{len(self._queue)} items wait for {self._step}; try again later", ahead
        )

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """The results of ``items``; when this is cancelled, they are not computed any more.

        Raises:
            Problem: 429, the queue has no room for all of them.
        """
        self.room(len(items))
        loop = asyncio.get_running_loop()
        now = loop.time()
        entries: list[_Entry[Item, Result]] = [
            _Entry(item, self._length(item), now, loop.create_future()) for item in items
        ]
        self._queue += entries
        self._changed()
        try:
            return list(await asyncio.gather(*(entry.future for entry in entries)))
        finally:
            for entry in entries:
                entry.future.cancel()
            if any(entry.future.cancelled() for entry in entries):
                before = len(self._queue)
                self._queue = [entry for entry in self._queue if not entry.future.cancelled()]
                self._dropped.inc(before - len(self._queue))
                self._changed()

    async def run(self) -> None:
        """Compute what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            if self._several and self._limits.wait:
                await self._company()
            if batch := self._take():
                await self._answer(batch)

    async def _company(self) -> None:
        """Wait until the batch is full or its oldest item has waited long enough."""
        loop = asyncio.get_running_loop()
        while self._queue and len(self._queue) < self._limits.batch:
            left = self._queue[0].since + self._limits.wait - loop.time()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Entry[Item, Result]]:
        """Remove a batch from the queue."""
        if not self._queue:
            self._changed()
            return []
        oldest, *others = self._queue
        others.sort(key=lambda entry: abs(entry.length - oldest.length))
        batch, longest, total = [oldest], oldest.length, oldest.length
        for entry in others:
            if len(batch) == self._limits.batch:
                break
            longest, total = max(longest, entry.length), total + entry.length
            if longest * (len(batch) + 1) > _PADDING * total:
                break
            batch.append(entry)
        taken = set(map(id, batch))
        self._queue = [entry for entry in self._queue if id(entry) not in taken]
        self._changed()
        return batch

    async def _answer(self, batch: list[_Entry[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        try:
            results = await loop.run_in_executor(
                self._executor, self._compute, [entry.item for entry in batch]
            )
        except Exception as error:
            if len(batch) > 1:  # whose fault it is shows when each is computed alone
                for entry in batch:
                    if not entry.future.done():
                        await self._answer([entry])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._pace += _RECENT * (seconds / len(batch) - self._pace)
        self._several = len(batch) > 1
        self._items.observe(len(batch))
        self._seconds.observe(seconds)
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(result)

    def _changed(self) -> None:
        self._waiting.set(len(self._queue))
        if self._queue:
            self._arrived.set()
        else:
            self._arrived.clear()
