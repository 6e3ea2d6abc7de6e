"""The engine of a server: its exports, which compute requests in threads and in batches."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from albef.data.boxes import Box
from albef.data.image_decoding import ImageError
from albef.data.rejection import Reason
from albef.preprocessing.transforms import Bounds, Square, squares
from albef.preprocessing.zero_shot import prompts
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.runtime.matching import Grounded
from albef.runtime.model import Floats, batches
from albef.serving.batching import CLIENT
from albef.serving.errors import ApiError
from albef.serving.indexes.reader import IndexReader
from albef.serving.indexes.store import GALLERY, Store
from albef.serving.limits import BEST, SIDE, Limits, Options
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import Rate
from albef.serving.model_queues import (
    EncodedImage,
    EncodedText,
    ModelQueues,
    Pair,
    Pixels,
    probability,
)
from albef.worker import KilledError, Worker

T = TypeVar("T")
_DECODERS = 2  # Processes that decode; one more than computes keeps a batch ready.
_AHEAD = 2 * _DECODERS  # Images of a request that are decoded, or in their queue, at a time.
# Processor time for an image, several times what the slowest format takes.
_SECONDS, _PIXELS_PER_SECOND = 1, 2**22
_NICE = 10  # They have a lower priority than the event loop, so slow images delay others less.
_READERS = 2  # Threads that read and write the indexes.

log = logging.getLogger("albef")
ENGINE: ContextVar["Engine"] = ContextVar("engine")
"""The engine of the current request. A request keeps the engine that it started with."""
TEXT_RATE: ContextVar[Rate | None] = ContextVar("text_rate", default=None)
"""Limit of texts per second of the current request's token."""


def _take_texts(count: int) -> None:
    """Count texts against the token's limit; raise ApiError 429 above it."""
    if rate := TEXT_RATE.get():
        rate.take(count)


def current() -> "Engine":
    """Return the engine of the current request."""
    return ENGINE.get()


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
        client, waiting = CLIENT.get(), self._held.total()
        most = self._limits.share(self._limits.queue, BEST)
        if waiting + count > self._limits.queue or self._held[client] + count > most:
            self._metrics.refused.labels("queue").inc()
            raise ApiError(429, f"{waiting} images wait for a decoder; retry after 1 s", 1)
        self._held[client] += count
        try:
            yield
        finally:
            self._held -= Counter({client: count})  # drops a client that holds none

    async def __call__(self, call: Callable[..., Iterable[T]], *args: object) -> T:
        """Run a call with one result in a process and return the result.

        Raises:
            KilledError: the process ended.
        """
        future: Future[T] = Future()
        with self._lock:
            self._lines.setdefault(CLIENT.get(), deque()).append((future, call, args))
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


class Resources:
    """Decoders, indexes and metrics that a server's models share with those that replace them."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self.options, self.metrics = options, metrics
        self.store = Store(options.indexes, GALLERY if options.gallery else "")
        self.decoders = Decoders(_DECODERS, options.limits, metrics)
        self.reading = ThreadPoolExecutor(_READERS, "index")

    async def close(self) -> None:
        """Close decoders, threads and indexes."""
        await asyncio.to_thread(self.decoders.close)
        await asyncio.to_thread(self.reading.shutdown, cancel_futures=True)
        self.store.close()


class Calls(dict[str, ModelQueues]):
    """The export that answers each call; a missing call is an ApiError 404."""

    def __missing__(self, call: str) -> ModelQueues:
        text = f"no export on this server has {call}; its calls are {', '.join(self)}"
        raise ApiError(404, text, code="no_such_call")


class Engine:
    """The served exports (``models``), the export that answers each call (``calls``), and indexes.

    If several exports have a call, the first one answers it. Methods take another export as
    ``queues``. An engine computes until :meth:`stop`. If the folders have other
    exports, another engine with the same resources replaces it.

    Raises:
        ExportError: a folder is not an export, was changed, has an unexpected digest, or cannot
            answer with these options.
    """

    def __init__(self, resources: Resources) -> None:
        options = resources.options
        self.resources, self.metrics, self.limits = resources, resources.metrics, options.limits
        self.store, self.decoders = resources.store, resources.decoders
        # Links are resolved once, because they can lead elsewhere later.
        folders = [folder.resolve() for folder in options.exports]
        for folder in folders if options.expect else ():
            if (digest := f"sha256:{manifest.digest(folder)}") not in options.expect:
                raise ExportError(f"{folder} is {digest}, which --expect does not name")
        self.models = [ModelQueues(folder, options, self.metrics) for folder in folders]
        self.names = ", ".join(queues.name for queues in self.models)
        self.calls = Calls()
        for queues in self.models:
            for call in sorted(queues.model.calls):
                self.calls.setdefault(call, queues)
        self.indexes = IndexReader(self)
        self.open_requests = 0

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Answer a request with this engine, which computes at least until its end."""
        self.open_requests += 1
        ENGINE.set(self)
        try:
            yield
        finally:
            self.open_requests -= 1

    def is_outdated(self) -> bool:
        """Return whether a folder now has another export."""
        digests = [manifest.digest(folder) for folder in self.resources.options.exports]
        return digests != [queues.model.digest for queues in self.models]

    async def stop(self) -> None:
        """Stop computing, and release the models."""
        for queues in self.models:
            await asyncio.to_thread(queues.threads.shutdown)
            self.store.forget(queues.space)
            # Frees the model even if other objects still hold the rest of the queues.
            queues.model = None

    def announce(self) -> None:
        """Report these models in the server's metrics."""
        self.metrics.clear()
        for queues in self.models:
            facts = queues.run, queues.model.facts.kind, queues.model.digest
            self.metrics.model.labels(*facts).set(1)
            self.metrics.written.labels(queues.run).set(queues.written)
            for quantity, reference in queues.profile.items():
                divergence = partial(queues.sketch.divergence, quantity, reference)
                self.metrics.drift.labels(queues.run, quantity).set_function(divergence)
            for batcher in queues.batchers:
                batcher.announce()

    async def embed_images(
        self, images: Sequence[bytes], queues: ModelQueues | None = None
    ) -> Floats:
        """Embed encoded images as unit vectors (n, E)."""
        queues = queues or self.calls["embed_image"]
        encoded = await self.encode_images(queues, images, keep=False)
        return np.stack([image.feat for image in encoded])

    async def embed_texts(
        self, texts: Sequence[str], queues: ModelQueues | None = None, *, counted: bool = True
    ) -> Floats:
        """Embed texts as unit vectors (n, E)."""
        encoded = await self.encode_texts(
            queues or self.calls["embed_text"], texts, counted=counted
        )
        return np.stack([text.feat for text in encoded])

    async def zero_shot(
        self, images: Sequence[bytes], labels: Sequence[str], templates: Sequence[str]
    ) -> Floats:
        """Return the probabilities (n, C) of mutually exclusive labels for each image."""
        queues = self.calls["zero_shot"]
        texts = prompts(labels, templates)
        text_feats = [
            await self.embed_texts(texts[part], queues, counted=False)
            for part in batches(len(texts))
        ]
        feats = await self.embed_images(images, queues)
        prompt_feats = np.concatenate(text_feats)
        shares: Floats = queues.model.classify_features(feats, prompt_feats, len(labels))
        return shares

    async def match(
        self, images: Sequence[bytes], texts: Sequence[str], queues: ModelQueues | None = None
    ) -> list[float]:
        """Return the probability of each pair of image and text; see :meth:`match_margins`.

        Raises:
            ApiError: 422, several images and a different number of several texts.
        """
        if len(images) != len(texts) and 1 not in (len(images), len(texts)):
            text = f"got {len(images)} images and {len(texts)} texts"
            raise ApiError(422, f"{text}; send as many of both, or one of either")
        return [probability(each) for each in await self.match_margins(images, texts, queues)]

    async def match_margins(
        self, images: Sequence[bytes], texts: Sequence[str], queues: ModelQueues | None = None
    ) -> list[float]:
        """Return the logit of "match" minus that of "no match" for each pair of image and text.

        One image is paired with all texts, and one text with all images.
        """
        queues, count = queues or self.calls["match"], max(len(images), len(texts))
        queues.pairs.check_room(count)
        encoded = await self.encode_texts(queues, texts)
        states = [each.states for each in await self.encode_images(queues, images, keep=True)]
        pairs = [Pair(encoded[i % len(encoded)], states[i % len(states)]) for i in range(count)]  # type: ignore[arg-type]
        margins = await queues.pairs(pairs)
        for margin in margins:
            queues.sketch.count(confidence=probability(abs(margin)))
        return margins

    async def ask(self, call: str, images: Sequence[bytes], texts: Sequence[str]) -> list[Any]:
        """Return the model's answer to each text about the same image or images."""
        return (await self._ask(call, images, texts))[1]

    async def ground(
        self, image: bytes, expressions: Sequence[str], boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Grounded]]:
        """Return the image's size, and the location of each expression in it."""
        return await self._ask("ground", [image], expressions, boxes)

    async def _ask(
        self, call: str, images: Sequence[bytes], texts: Sequence[str], *boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Any]]:
        """Return the first image's size, and the answers; boxes belong to that image."""
        queues = self.calls[call]
        _take_texts(len(texts))
        queues.by_call[call].check_room(len(texts))
        with self.decoders.room(len(images)):
            decoded = [await self.decode(queues, image, i) for i, image in enumerate(images)]
        inputs, size = [Image.fromarray(each.pixels) for each in decoded], decoded[0].size
        more = (*boxes, size) if boxes else ()
        answers = await queues.by_call[call]([(*inputs, text, *more) for text in texts])
        queues.count(texts, answers)
        return size, answers

    async def encode_images(
        self, queues: ModelQueues, images: Sequence[bytes], *, keep: bool, counted: bool = True
    ) -> list[EncodedImage]:
        """Encode images to features, and to states if ``keep`` is true."""
        queues.images.check_room(len(images))
        decoded: dict[int, Square] = {}
        numbered = iter(enumerate(images))

        async def decode() -> None:
            for number, image in numbered:
                decoded[number] = await self.decode(queues, image, number, counted=counted)

        with self.decoders.room(len(images)):
            decoding = [asyncio.ensure_future(decode()) for _ in images[:_AHEAD]]
            try:
                await asyncio.gather(*decoding)
            finally:  # If one image fails, the others are cancelled.
                for task in decoding:
                    task.cancel()
        return await queues.images([Pixels(decoded[i].pixels, keep) for i in range(len(images))])

    async def encode_texts(
        self, queues: ModelQueues, texts: Sequence[str], *, counted: bool = True
    ) -> list[EncodedText]:
        """Encode texts to states and features."""
        _take_texts(len(texts))
        return await queues.encode_texts([queues.ids(text, counted=counted) for text in texts])

    async def decode(
        self, queues: ModelQueues, image: bytes, number: int, counted: bool = True, small: int = 0
    ) -> Square:
        """Return an encoded image at the model's input size, decoded in a process.

        If ``counted``, the model's sketch counts it. A thumbnail has a longest side ``small``.

        Raises:
            ApiError: 413 or 422, the image is invalid; the message has the reason.
        """
        bounds = Bounds(self.limits.pixels, SIDE, self.limits.formats)
        try:
            side, name = queues.model.facts.image_size, f"file {number}"
            square = await self.decoders(squares, image, name, bounds, side, small)
        except KilledError as error:
            text = f"the decoder of the image of {name} {error}"
            raise ApiError(422, text, code="bad_image") from None
        except ImageError as error:
            if error.reason == Reason.TOO_MANY_PIXELS:
                raise ApiError(413, str(error), code="too_many_pixels") from None
            raise ApiError(422, str(error), code="bad_image") from None
        if counted:
            (width, height), brightness = square.size, float(square.pixels.mean())
            queues.sketch.count(width=width, height=height, brightness=brightness)
        return square

    async def stored(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call on an index, computed in a thread.

        Raises:
            ApiError: 503, the index's file is damaged, or cannot be read or written now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.resources.reading, call, *arguments)
        except (sqlite3.Error, OSError) as error:
            path = getattr(getattr(call, "__self__", None), "path", "an index")
            log.error("cannot read or write %s: %s", path, error)
            if type(error) is sqlite3.DatabaseError:
                raise ApiError(503, "the index is damaged; see the log", code="damaged") from None
            text = "the index cannot be read or written; retry after 5 s"
            raise ApiError(503, text, 5, code="storage") from None
