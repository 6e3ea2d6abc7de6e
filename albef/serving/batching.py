"""Micro-batching: items of concurrent requests are computed together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from albef.serving.errors import ApiError
from albef.serving.limits import BEST, Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT

Item = TypeVar("Item")
Result = TypeVar("Result")
_PADDING = 1.5  # Maximum ratio of a batch's tokens with padding to its tokens without.
_RECENT = 0.2  # Weight of the last batch in the running mean of seconds per item.


class Threads:
    """Threads that compute. Unlike those of concurrent.futures, they make no Future of a call."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.submit = self._calls.put
        self._threads = [
            Thread(target=self._run, name="compute", daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        for call in iter(self._calls.get, None):
            call()

    def shutdown(self) -> None:
        """End the threads after their current calls."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """An item that waits for its result, since a time of the monotonic clock."""

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
    returns as many results as items, in one of the ``threads``. ``length`` is that of an item, if
    batches are padded.
    """

    def __init__(
        self,
        run: str,
        step: str,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        threads: Threads,
        limits: Limits,
        metrics: Metrics,
        length: Callable[[Item], int] = lambda item: 1,
    ) -> None:
        self._step, self._compute, self._threads, self._limits = step, compute, threads, limits
        self._length, self._metrics = length, metrics
        self._queue: list[_Waiting[Item, Result]] = []
        self._free = limits.workers  # Further batches that may be computed now.
        self._expected = 0  # Items of the next batch, if each answered client sends another.
        self._deadline = 0.0  # End of the wait for them, on the monotonic clock.
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
        client, most = CLIENT.get().name, self._limits.share(self._limits.queue, BEST)
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
        now, client = time.monotonic(), CLIENT.get().name
        waiting: list[_Waiting[Item, Result]] = [
            _Waiting(item, self._length(item), now, loop.create_future(), client) for item in items
        ]
        self._queue += waiting
        if self._expected > 1:  # Requests that arrive together form one batch.
            loop.call_soon(self._start, loop)
        else:
            self._start(loop)
        try:
            return [await entry.result for entry in waiting]
        finally:
            for entry in waiting:
                entry.result.cancel()
            if any(entry.result.cancelled() for entry in waiting):
                length = len(self._queue)
                self._queue = [entry for entry in self._queue if not entry.result.cancelled()]
                self._dropped.inc(length - len(self._queue))

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to compute waiting items, unless a fuller batch can be expected soon."""
        while self._queue and self._free > 0:
            now = time.monotonic()
            if len(self._queue) < self._expected and now < self._deadline:
                loop.call_later(self._deadline - now, self._start, loop)
                return
            batch = self._take_batch()
            for entry in batch:
                self._waited.observe(now - entry.since)
            self._submit(batch, loop)

    def _take_batch(self) -> list[_Waiting[Item, Result]]:
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

    def _submit(self, batch: list[_Waiting[Item, Result]], loop: asyncio.AbstractEventLoop) -> None:
        items = [entry.item for entry in batch]
        self._free -= 1

        def compute() -> None:
            start = time.monotonic()
            try:
                results, error = self._compute(items), None
            except Exception as caught:
                results, error = (), caught
            seconds = time.monotonic() - start
            loop.call_soon_threadsafe(self._answer, loop, batch, results, error, seconds)

        self._threads.submit(compute)

    def _answer(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting[Item, Result]],
        results: Sequence[Result],
        error: Exception | None,
        seconds: float,
    ) -> None:
        """Give the waiting requests their results, and start the next batch."""
        self._free += 1
        if error is None:
            self._pace += _RECENT * (seconds / len(batch) - self._pace)
            self._expected = min(self._limits.batch, len(batch) + len(self._queue))
            self._deadline = time.monotonic() + self._limits.stragglers * seconds
            self._items.observe(len(batch))
            self._seconds.observe(seconds)
            for entry, result in zip(batch, results, strict=True):
                if not entry.result.done():
                    entry.result.set_result(result)
        elif len(batch) > 1:  # Each is computed alone, because only the faulty one has the error.
            for entry in batch:
                if not entry.result.done():
                    self._submit([entry], loop)
        elif not batch[0].result.done():
            batch[0].result.set_exception(error)
        self._start(loop)
