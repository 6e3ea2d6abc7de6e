"""What requests ask of models and indexes, computed in threads and in batches."""

import asyncio
import contextlib
import hashlib
import io
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from albef.data.boxes import Box
from albef.data.image_decoding import ImageError, decode
from albef.runtime.matching import Grounded
from albef.runtime.model import CALLS, Floats, ImageStates, Ints
from albef.serving.batching import Batcher
from albef.serving.errors import Problem
from albef.serving.index import Entry, Index, Store
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.served import Asked, Pair, Pixels, Read, Said, Served, TooManyPixels, measured
from albef.serving.served import probability as probability

T = TypeVar("T")
_DECODERS = 2  # threads; one more than computes keeps a batch ready
_READERS = 2  # threads of the indexes
_THUMBNAIL = 320  # longest side, in pixels

log = logging.getLogger("albef")


class Found(NamedTuple):
    """A picture of an index that fits a query.

    Attributes:
        id: of the picture.
        similarity: of its feature to the query's.
        probability: that it and the text belong together; None where they were not read together.
    """

    id: str
    similarity: float
    probability: float | None


class Lane:
    """An export and what waits for it.

    Args:
        served: the export.
        executor: of the thread that computes.
        limits: of the server.
        metrics: of the server.
    """

    def __init__(
        self, served: Served, executor: ThreadPoolExecutor, limits: Limits, metrics: Metrics
    ) -> None:
        self.served = served

        def batcher(step: str, compute: Callable[[Any], Any], **more: Any) -> Any:
            return Batcher(served.run, step, compute, executor, limits, metrics, **more)

        self.pictures: Batcher[Pixels, Read] = batcher("pictures", served.read_pictures)
        self.texts: Batcher[Ints, Said] = batcher("texts", served.read_texts, length=len)
        self.pairs: Batcher[Pair, float] = batcher(
            "pairs", served.match, length=lambda pair: len(pair.text.states)
        )
        self.questions: Batcher[Asked, list[tuple[str, float]]] = batcher("questions", served.ask)
        self.statements: Batcher[Asked, dict[str, float]] = batcher("statements", served.entail)
        self.comparisons: Batcher[Asked, dict[str, float]] = batcher("comparisons", served.compare)
        self.expressions: Batcher[Asked, Grounded] = batcher("expressions", served.ground)

    @property
    def batchers(self) -> list[Batcher[Any, Any]]:
        """All of them."""
        return [value for value in vars(self).values() if isinstance(value, Batcher)]


class Engine:
    """The exports of a server; of those that have a call the first one answers it.

    Args:
        exports: at least one.
        store: of the indexes.
        limits: of the server.
        metrics: of the server.
        workers: threads that compute; each takes as many cores as the exports were loaded for.

    Attributes:
        calls: the export that answers each call.
    """

    def __init__(
        self,
        exports: Sequence[Served],
        store: Store,
        limits: Limits,
        metrics: Metrics,
        workers: int = 1,
    ) -> None:
        self.exports, self.store, self.limits, self.metrics = exports, store, limits, metrics
        self._workers = workers
        self._computing = ThreadPoolExecutor(workers, "compute")
        self._decoding = ThreadPoolExecutor(_DECODERS, "decode")
        self._reading = ThreadPoolExecutor(_READERS, "index")
        lanes = [Lane(served, self._computing, limits, metrics) for served in exports]
        self._lanes = lanes
        self.calls = {
            call: next(lane for lane in lanes if call in lane.served.calls)
            for call in CALLS
            if any(call in lane.served.calls for lane in lanes)
        }
        self._states = _States(limits.cache)
        self._settling: set[asyncio.Future[None]] = set()
        for served in exports:
            metrics.model.labels(served.run, served.facts.kind, served.digest).set(1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute what is asked inside this context."""
        batchers = [batcher for lane in self._lanes for batcher in lane.batchers]
        tasks = [
            asyncio.create_task(batcher.run()) for batcher in batchers for _ in range(self._workers)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._settling, return_exceptions=True)
            for pool in (self._decoding, self._computing, self._reading):
                await asyncio.to_thread(pool.shutdown, cancel_futures=True)
            self.store.close()

    async def embed_pictures(self, images: Sequence[bytes]) -> Floats:
        """Encoded pictures to unit vectors (n, E)."""
        read = await self._read(self.calls["embed_image"], images, keep=False)
        return np.stack([each.feat for each in read])

    async def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Texts to unit vectors (n, E)."""
        return np.stack([said.feat for said in await self._said(self.calls["embed_text"], texts)])

    async def match(self, images: Sequence[bytes], texts: Sequence[str]) -> list[float]:
        """The probability of each pair; one picture or one text is paired with all of the other."""
        lane, count = self.calls["match"], max(len(images), len(texts))
        lane.pairs.room(count)
        said = await self._said(lane, texts)
        read = [each.states for each in await self._read(lane, images, keep=True)]
        states = [each for each in read if each is not None]
        pairs = [Pair(said[i % len(said)], states[i % len(states)]) for i in range(count)]
        return [probability(margin) for margin in await lane.pairs(pairs)]

    async def ask(
        self, image: bytes, questions: Sequence[str], k: int
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` most probable answers to each question about a picture."""
        lane = self.calls["ask"]
        lane.questions.room(len(questions))
        picture = await self._square(lane.served, image, 0)
        return await lane.questions([Asked(picture, text, k=k) for text in questions])

    async def entail(self, image: bytes, statements: Sequence[str]) -> list[dict[str, float]]:
        """Whether a picture contradicts, leaves open or entails each statement."""
        lane = self.calls["entail"]
        lane.statements.room(len(statements))
        picture = await self._square(lane.served, image, 0)
        return await lane.statements([Asked(picture, text) for text in statements])

    async def compare(
        self, first: bytes, second: bytes, statements: Sequence[str]
    ) -> list[dict[str, float]]:
        """Whether each statement is true of two pictures together."""
        lane = self.calls["compare"]
        lane.comparisons.room(len(statements))
        pictures = [await self._square(lane.served, x, i) for i, x in enumerate((first, second))]
        return await lane.comparisons(
            [Asked(pictures[0], text, second=pictures[1]) for text in statements]
        )

    async def ground(
        self, image: bytes, expressions: Sequence[str], boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Grounded]]:
        """The picture's size, and where it shows what each expression says."""
        lane = self.calls["ground"]
        lane.expressions.room(len(expressions))
        size = await self._decoded(self._checked, image, 0)
        return size, await lane.expressions(
            [Asked(image, text, boxes=boxes) for text in expressions]
        )

    async def indexed(
        self, index: Index, images: Sequence[bytes], ids: Sequence[str | None]
    ) -> list[str]:
        """Add pictures to an index; the names they have there.

        A picture without a name is called by its digest, so that adding it twice changes nothing.
        """
        lane = self.calls["embed_image"]
        read = await self._read(lane, images, keep=False)
        entries = [
            await self._decoded(self._entry, lane.served, image, i, each.feat, name)
            for i, (image, each, name) in enumerate(zip(images, read, ids, strict=True))
        ]
        await self.stored(index.add, entries)
        settling = asyncio.ensure_future(self._settle(index))  # nobody waits for it
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        return [entry.id for entry in entries]

    async def search(self, index: Index, query: str | bytes, k: int, rerank: int) -> list[Found]:
        """The ``k`` pictures of an index that fit a text or an encoded picture best.

        Args:
            index: of the model's own features.
            query: a text or a picture.
            k: how many.
            rerank: so many of the most similar are read together with the text (ITM), and stand
                before the others, the most probable first.
        """
        lane = self.calls["embed_text" if isinstance(query, str) else "embed_image"]
        if isinstance(query, str):
            said = (await self._said(lane, [query]))[0]
            feat = said.feat
        else:
            rerank, feat = 0, (await self._read(lane, [query], keep=False))[0].feat
        hits = await self.stored(index.search, feat, max(k, rerank))
        margins: dict[int, float] = {}
        if rerank:
            best = [hit.number for hit in hits[:rerank]]
            states = await self._stored_states(lane, index, best)
            pairs = [Pair(said, each) for each in states.values()]
            margins = dict(zip(states, await lane.pairs(pairs) if pairs else [], strict=True))
        order = sorted(hits, key=lambda hit: -margins.get(hit.number, -np.inf))  # a stable sort
        return [
            Found(
                hit.id,
                hit.similarity,
                probability(margins[hit.number]) if hit.number in margins else None,
            )
            for hit in order[:k]
        ]

    async def stored(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call on an index returns, in a thread.

        Raises:
            Problem: 503, its file cannot be read or written now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reading, call, *arguments)
        except (sqlite3.Error, OSError) as error:
            log.error("an index cannot be used: %s", error)
            raise Problem(503, "storage", "the index cannot be read or written now", 5) from None

    async def _settle(self, index: Index) -> None:
        try:
            await self.stored(index.settle)
        except Exception:  # a search goes on without
            log.exception("the index %s is searched as before", index.name)

    async def _stored_states(
        self, lane: Lane, index: Index, numbers: Sequence[int]
    ) -> dict[int, ImageStates]:
        """The states of pictures of an index, kept for the next query."""
        found = {number: self._states.get((index.serial, number)) for number in numbers}
        missing = [number for number, states in found.items() if states is None]
        squares = {number: await self.stored(index.square, number) for number in missing}
        there = [(number, square) for number, square in squares.items() if square]
        if there:
            read = await self._read(lane, [square for _, square in there], keep=True)
            for (number, _), each in zip(there, read, strict=True):
                assert each.states is not None
                self._states.put((index.serial, number), each.states)
                found[number] = each.states
        return {number: states for number, states in found.items() if states is not None}

    async def _read(self, lane: Lane, images: Sequence[bytes], *, keep: bool) -> list[Read]:
        lane.pictures.room(len(images))
        pixels = await _together(
            [self._decoded(self._pixels, lane.served, image, i) for i, image in enumerate(images)]
        )
        return await lane.pictures([Pixels(each, keep) for each in pixels])

    async def _said(self, lane: Lane, texts: Sequence[str]) -> list[Said]:
        return await lane.texts([lane.served.ids(text) for text in texts])

    async def _square(self, served: Served, image: bytes, number: int) -> Image.Image:
        def square() -> Image.Image:
            measured(image, self.limits.pixels, number)
            return served.square(image, number)

        return await self._decoded(square)

    def _pixels(self, served: Served, image: bytes, number: int) -> Floats:
        measured(image, self.limits.pixels, number)
        return served.pixels(image, number)

    def _checked(self, image: bytes, number: int) -> tuple[int, int]:
        """The size of a picture that can be decoded."""
        measured(image, self.limits.pixels, number)
        return decode(image, f"picture {number}").size

    def _entry(
        self, served: Served, image: bytes, number: int, feat: Floats, name: str | None
    ) -> Entry:
        digest = hashlib.sha256(image).hexdigest()
        small = decode(image, f"picture {number}")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        thumbnail, square = io.BytesIO(), io.BytesIO()
        small.save(thumbnail, "JPEG", quality=85)
        served.square(image, number).save(square, "PNG", compress_level=3)
        return Entry(name or digest[:32], digest, feat, thumbnail.getvalue(), square.getvalue())

    async def _decoded(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call that decodes pictures returns, in a thread.

        Raises:
            Problem: 413 or 422, with what is wrong with the picture.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoding, call, *arguments)
        except TooManyPixels as error:
            raise Problem(413, "too_many_pixels", str(error)) from None
        except ImageError as error:
            raise Problem(422, "bad_picture", str(error)) from None


class _States:
    """Image states by key, those used last, up to a number of bytes."""

    def __init__(self, size: int) -> None:
        self._size, self._used = size, 0
        self._kept: OrderedDict[tuple[int, int], ImageStates] = OrderedDict()

    def get(self, key: tuple[int, int]) -> ImageStates | None:
        if (states := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return states

    def put(self, key: tuple[int, int], states: ImageStates) -> None:
        if key in self._kept:
            return
        self._kept[key] = states
        self._used += _size(states)
        while self._used > self._size:
            self._used -= _size(self._kept.popitem(last=False)[1])


def _size(states: ImageStates) -> int:
    return int(states.keys.nbytes + states.values.nbytes)


async def _together(calls: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
