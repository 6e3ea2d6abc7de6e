"""Micro-batching: items of concurrent requests are computed together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

from albef.serving.errors import ApiError
from albef.serving.limits import BEST, Limits
from albef.serving.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")
CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the current request; empty for the server's own work."""
_PADDING = 1.5  # Maximum ratio of a batch's tokens with padding to its tokens without.
_RECENT = 0.2  # Weight of the last batch in the running mean of seconds per item.


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """An item that waits for its result, since a time of the loop's clock."""

    item: Item
    length: int
    since: float
    result: "asyncio.Future[Result]"
    client: str


class Batcher(Generic[Item, Result]):
    """Bounded queue of items, which are computed in batches in a thread.

    If nothing is being computed, an arriving item starts at once. Items that arrive in the meantime
    form the next batch. After a batch, the next one waits until the clients that were just answered
    can have sent their next item, but no longer than the share ``limits.stragglers`` of the time
    that the batch took. Without this wait, clients that each wait for their answer form two groups
    that are computed in turn. The oldest item is always in the batch. The others are those with the
    most similar lengths. An item whose client has gone is not computed.

    ``run`` and ``step`` name the export and the computation, for metrics and errors. ``compute``
    returns as many results as items, in a thread of ``executor``. ``length`` is that of an item, if
    batches are padded.
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
        self._queue: list[_Waiting[Item, Result]] = []
        self._free = limits.workers  # Further batches that may be computed now.
        self._expected = 0  # Items of the next batch, if each answered client sends another.
        self._deadline = 0.0  # End of the wait for them, on the loop's clock.
        self._pace = 0.0  # Running mean of seconds per item.
        self._items = metrics.items.labels(run, step)
        self._seconds = metrics.computing.labels(run, step)
        self._waited = metrics.waited.labels(run, step)
        self._waiting = metrics.waiting.labels(run, step)
        self._dropped = metrics.dropped.labels(run, step)

    def announce(self) -> None:
        """Report the length of this queue as the number of waiting items."""
        self._waiting.set_function(lambda: len(self._queue))

    def __len__(self) -> int:
        return len(self._queue)

    def check_room(self, count: int) -> None:
        """Raise ApiError 429 if the queue has no room for ``count`` items, or no time."""
        client, most = CLIENT.get(), self._limits.share(self._limits.queue, BEST)
        waiting, own = len(self._queue), sum(entry.client == client for entry in self._queue)
        delay, is_full = waiting * self._pace, waiting + count > self._limits.queue
        if is_full or own + count > most or delay > self._limits.seconds:
            self._metrics.refused.labels("queue").inc()
            raise ApiError(429, f"{waiting} items wait for step {self._step!r}; retry later", delay)

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of ``items``; raise ApiError 429 if the queue has no room for all.

        If cancelled, the rest is not computed.
        """
        self.check_room(len(items))
        loop = asyncio.get_running_loop()
        now, client = loop.time(), CLIENT.get()
        waiting: list[_Waiting[Item, Result]] = [
            _Waiting(item, self._length(item), now, loop.create_future(), client) for item in items
        ]
        self._queue += waiting
        loop.call_soon(self._start)  # Requests that arrive together form one batch.
        try:
            return [await entry.result for entry in waiting]
        finally:
            for entry in waiting:
                entry.result.cancel()
            if any(entry.result.cancelled() for entry in waiting):
                length = len(self._queue)
                self._queue = [entry for entry in self._queue if not entry.result.cancelled()]
                self._dropped.inc(length - len(self._queue))

    def _start(self) -> None:
        """Start to compute waiting items, unless a fuller batch can be expected soon."""
        loop = asyncio.get_running_loop()
        while self._queue and self._free > 0:
            if len(self._queue) < self._expected and loop.time() < self._deadline:
                loop.call_at(self._deadline, self._start)
                return
            batch, now = self._take_batch(), loop.time()
            for entry in batch:
                self._waited.observe(now - entry.since)
            self._submit(batch)

    def _take_batch(self) -> list[_Waiting[Item, Result]]:
        """Remove a batch from the queue and return it."""
        oldest, *others = self._queue
        others.sort(key=lambda entry: abs(entry.length - oldest.length))
        batch, longest, total = [oldest], oldest.length, oldest.length
        for entry in others[: self._limits.batch - 1]:
            longest, total = max(longest, entry.length), total + entry.length
            if longest * (len(batch) + 1) > _PADDING * total:
                break
            batch.append(entry)
        batched = set(map(id, batch))
        self._queue = [entry for entry in self._queue if id(entry) not in batched]
        return batch

    def _submit(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Compute a batch in a thread."""
        loop, items = asyncio.get_running_loop(), [entry.item for entry in batch]
        start = loop.time()
        self._free -= 1

        def compute() -> None:
            try:
                results, error = self._compute(items), None
            except Exception as caught:
                results, error = (), caught
            loop.call_soon_threadsafe(self._answer, batch, results, error, start)

        self._executor.submit(compute)

    def _answer(
        self,
        batch: list[_Waiting[Item, Result]],
        results: Sequence[Result],
        error: Exception | None,
        start: float,
    ) -> None:
        """Give the waiting requests their results, and start the next batch."""
        self._free += 1
        if error is None:
            end = asyncio.get_running_loop().time()
            seconds = end - start
            self._pace += _RECENT * (seconds / len(batch) - self._pace)
            self._expected = min(self._limits.batch, len(batch) + len(self._queue))
            self._deadline = end + self._limits.stragglers * seconds
            self._items.observe(len(batch))
            self._seconds.observe(seconds)
            for entry, result in zip(batch, results, strict=True):
                if not entry.result.done():
                    entry.result.set_result(result)
        elif len(batch) > 1:  # Each is computed alone, because only the faulty one has the error.
            for entry in batch:
                if not entry.result.done():
                    self._submit([entry])
        elif not batch[0].result.done():
            batch[0].result.set_exception(error)
        self._start()
