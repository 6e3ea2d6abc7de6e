"""Processes that decode the images of requests, each with a limit on processor time."""

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from albef.data.image_decoding import ImageError
from albef.data.rejection import Reason
from albef.preprocessing.transforms import Bounds, Square, squares
from albef.serving.errors import ApiError
from albef.serving.limits import BEST, SIDE, Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import CLIENT
from albef.worker import KilledError, Worker

T = TypeVar("T")
PROCESSES = 2
"""Number of processes; one more than computes keeps a batch ready."""
# Processor time for an image, several times what the slowest format takes.
_SECONDS, _PIXELS_PER_SECOND = 1, 2**22
_NICE = 10  # They have a lower priority than the event loop, so slow images delay others less.


class Decoders:
    """Processes that decode images. An image whose client has gone is skipped.

    If an image crashes its process, other images are not affected. Clients take turns, so the
    images of one wait behind its own.
    """

    def __init__(self, processes: int, limits: Limits, metrics: Metrics) -> None:
        self._threads = ThreadPoolExecutor(processes, "decode")  # Each of them waits for a process.
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for _ in range(processes):
            seconds = _SECONDS + limits.pixels / _PIXELS_PER_SECOND
            self._idle.put(Worker(seconds, nice=_NICE))
        self._lines: dict[str, deque[tuple[Future[Any], Any, Any]]] = {}
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # images of each client, decoded ones included
        self._limits, self._metrics = limits, metrics
        metrics.waiting.labels("", "decode").set_function(self._held.total)

    def warm_up(self) -> None:
        """Let the processes import what decodes, for which the first images would wait."""

        def import_module(worker: Worker) -> None:
            with contextlib.suppress(KilledError):
                [*worker.run(list, (squares,))]
            self._idle.put(worker)

        workers = [self._idle.get() for _ in range(self._idle.qsize())]
        list(self._threads.map(import_module, workers))

    def close(self) -> None:
        """End the processes after their current images."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Hold room for ``count`` images in the queue; raise ApiError 429 if it has none."""
        client, waiting = CLIENT.get().name, self._held.total()
        most = self._limits.share(self._limits.queue, BEST)
        if waiting + count > self._limits.queue or self._held[client] + count > most:
            self._metrics.refused.labels("queue").inc()
            raise ApiError(429, f"{waiting} images wait for a decoder; retry after 1 s", 1)
        self._held[client] += count
        try:
            yield
        finally:
            self._held -= Counter({client: count})  # drops a client that holds none

    async def decode(self, image: bytes, name: str, side: int, small: int = 0) -> Square:
        """Return an encoded image with sides of ``side`` pixels.

        A thumbnail has a longest side ``small``. Error messages call the image ``name``.

        Raises:
            ApiError: 413 or 422, the image is invalid; the message has the reason.
        """
        bounds = Bounds(self._limits.pixels, SIDE, self._limits.formats)
        try:
            return await self(squares, image, name, bounds, side, small)
        except KilledError as error:
            text = f"the decoder of the image of {name} {error}"
            raise ApiError(422, text, code="bad_image") from None
        except ImageError as error:
            if error.reason == Reason.TOO_MANY_PIXELS:
                raise ApiError(413, str(error), code="too_many_pixels") from None
            raise ApiError(422, str(error), code="bad_image") from None

    async def __call__(self, call: Callable[..., Iterable[T]], *args: object) -> T:
        """Run a call with one result in a process and return the result.

        Raises:
            KilledError: the process ended.
        """
        future: Future[T] = Future()
        with self._lock:
            self._lines.setdefault(CLIENT.get().name, deque()).append((future, call, args))
        self._threads.submit(self._run_next)
        return await asyncio.wrap_future(future)

    def _run_next(self) -> None:
        with self._lock:
            client = next(iter(self._lines))
            line = self._lines.pop(client)
            future, call, args = line.popleft()
            if line:
                self._lines[client] = line  # at the end
        if future.set_running_or_notify_cancel():
            worker = self._idle.get()
            try:
                [result] = worker.run(call, *args)
                future.set_result(result)
            except Exception as error:
                future.set_exception(error)
            finally:
                self._idle.put(worker)
                del future, args  # An error's traceback would keep them, and the image.
