"""Threads that decode pictures, an item of each client in turn."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT

T = TypeVar("T")
_Turn = asyncio.Future[asyncio.Future[Any]]  # for a thread, and then what that computes


class Decoders:
    """A bounded queue of calls for each client (:data:`CLIENT`) and threads that take one of each
    in turn, so that a picture waits for no more than one of every other client, however many these
    have sent. One that nobody waits for any more is left out.
    """

    def __init__(self, threads: int, limits: Limits, metrics: Metrics) -> None:
        self.pool = ThreadPoolExecutor(threads, "decode")
        self._free, self._limits, self._metrics = threads, limits, metrics
        self._queues: OrderedDict[str, deque[tuple[_Turn, Callable[[], Any]]]] = OrderedDict()
        metrics.waiting.labels("", "decode").set_function(lambda: self._waiting)

    @property
    def _waiting(self) -> int:
        return sum(map(len, list(self._queues.values())))

    def check_room(self, count: int) -> None:
        """See that ``count`` calls find room.

        Raises:
            Problem: 429, they do not.
        """
        if (waiting := self._waiting) + count > self._limits.queue:
            self._metrics.refused.labels("queue").inc()
            raise Problem(429, f"{waiting} pictures wait to be decoded", 1)

    async def __call__(self, call: Callable[[], T]) -> T:
        """What a call returns, in a thread."""
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(CLIENT.get(), deque()).append((turn, call))
        self._start()
        result: T = await asyncio.shield(await turn)  # a thread goes on when its client leaves
        return result

    def _start(self) -> None:
        """Give free threads the first call of the client whose turn it is."""
        while self._free and self._queues:
            client, queue = self._queues.popitem(last=False)
            turn, call = queue.popleft()
            if queue:
                self._queues[client] = queue  # behind the others
            if not turn.done():
                self._free -= 1
                result = asyncio.get_running_loop().run_in_executor(self.pool, call)
                result.add_done_callback(self._end)
                turn.set_result(result)

    def _end(self, result: "asyncio.Future[Any]") -> None:
        self._free += 1
        if not result.cancelled():
            result.exception()  # else the loop complains where nobody waits for it any more
        self._start()
