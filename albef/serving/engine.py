"""What requests ask of models and indexes, computed in threads and in batches."""

import asyncio
import copy
import hashlib
import io
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from albef.data.boxes import Box
from albef.data.image_decoding import ImageError, decode, opened
from albef.data.refusal import Reason
from albef.preprocessing.zero_shot import prompts
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.runtime.matching import Grounded
from albef.runtime.model import CALLS, Floats, ImageStates, batches
from albef.serving.decoding import Decoders
from albef.serving.errors import Problem
from albef.serving.indexes.index import Entry, Hit, Index
from albef.serving.indexes.store import Store
from albef.serving.limits import SIDE, Limits
from albef.serving.metrics import Metrics
from albef.serving.model_queues import ModelQueues, Pair, Pixels, ReadPicture, ReadText

T = TypeVar("T")
_DECODERS = 2  # threads; one more than computes keeps a batch ready
_READERS = 2  # threads of the indexes
AT_ONCE = 4
"""Pictures that are read at once for no client; few, so that clients' do not wait long."""
PATIENCE = 1.0
"""Seconds after which that is tried again, where the queue is full."""
THUMBNAIL = 320  # longest side, in pixels

log = logging.getLogger("albef")
ENGINE: ContextVar["Engine"] = ContextVar("engine")
"""Answers the request that is worked on: the one that it began with."""


def current() -> "Engine":
    """What answers the request that is worked on."""
    return ENGINE.get()


class Engine:
    """The exports of a server (``models``); of those that have a call the first one answers it
    (``calls``).

    Of ``workers`` threads that compute, each takes as many cores as the exports are loaded for,
    with ``options`` of :func:`albef.runtime.load`. If digests are expected, no other is loaded.

    Raises:
        ExportError: a folder holds no export, a changed or another one, or cannot run as asked.
    """

    def __init__(
        self,
        exports: Sequence[Path],
        store: Store,
        limits: Limits,
        metrics: Metrics,
        workers: int = 1,
        expect: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.store, self.limits, self.metrics = store, limits, metrics
        self._exports, self._expect, self._options = exports, expect, options
        self._workers = workers
        self._computing = ThreadPoolExecutor(workers, "compute")
        self.decoders = Decoders(_DECODERS, limits, metrics)
        self._reading = ThreadPoolExecutor(_READERS, "index")
        self._load()

    def _load(self) -> None:
        folders = [folder.resolve() for folder in self._exports]  # a link may lead elsewhere soon
        for folder in folders if self._expect else ():
            if (digest := f"sha256:{manifest.digest(folder)}") not in self._expect:
                text = f"{folder} is {digest}, which --expect does not name: not loaded"
                raise ExportError(text)
        self.models = [
            ModelQueues(folder, self._computing, self.limits, self.metrics, **self._options)
            for folder in folders
        ]
        self.calls = {
            call: queues
            for call in CALLS
            for queues in reversed(self.models)  # the first has the last word
            if call in queues.model.calls
        }
        self.successor: Engine | None = None
        self._states = StatesCache(self.limits.cache)
        self._complete: set[int] = set()  # serials of indexes all of whose pictures it has read
        self.unfit: set[int] = set()  # of those that keep pictures of another size
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def names(self) -> str:
        """What the exports are called."""
        return ", ".join(queues.name for queues in self.models)

    def is_outdated(self) -> bool:
        """Whether a folder has another export by now."""
        digests = [manifest.digest(folder) for folder in self._exports]
        return digests != [queues.model.digest for queues in self.models]

    def renewed(self) -> "Engine":
        """An engine of what the folders have now, which shares all but the models with this one.

        Raises:
            ExportError: as for this one.
        """
        engine = copy.copy(self)
        engine._load()
        return engine

    def start(self) -> None:
        """Compute what is asked from now on."""
        self._tasks += [
            asyncio.create_task(batcher.run())
            for queues in self.models
            for batcher in queues.batchers
            for _ in range(self._workers)
        ]

    async def stop(self) -> None:
        """Compute nothing more, and let go of the models."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queues in self.models:
            self.store.forget(queues.space)
            queues.model = None  # whatever holds the rest until it is collected

    async def close(self) -> None:
        """Stop, and let go of threads and indexes, also those of engines that it renewed."""
        await self.stop()
        for pool in (self.decoders.pool, self._computing, self._reading):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        self.store.close()

    def announce(self) -> None:
        """Let the server's numbers be of these models."""
        self.metrics.model.clear()
        self.metrics.drift.clear()
        for queues in self.models:
            facts = queues.run, queues.model.facts.kind, queues.model.digest
            self.metrics.model.labels(*facts).set(1)
            self.metrics.follow_drift(queues.run, queues.sketch, queues.profile)
            for batcher in queues.batchers:
                batcher.announce()

    async def read_indexes(self) -> None:
        """Bring all indexes to this engine's model."""
        if "embed_image" in self.calls:
            for index in await self.stored(self.store.all):
                await self._read_index(index)

    async def _read_index(self, index: Index) -> None:
        """Read what an index keeps of its pictures, where a feature of the model is lacking.

        One that keeps them for a model that reads another size stays as it is.
        """
        queues, after = self.calls["embed_image"], 0
        while rows := await self.stored(index.lacking, queues.space, after, AT_ONCE):
            numbers, squares = zip(*rows, strict=True)
            with opened(squares[0], "of an index") as picture:
                if picture.size[0] != queues.model.facts.image_size:
                    self.unfit.add(index.serial)
                    log.warning("the index %s is not for %s", index.about.name, queues.name)
                    return
            try:
                pictures = await self._read_pictures(queues, squares, keep=False, counted=False)
                feats = np.stack([each.feat for each in pictures])
            except Problem as problem:
                if problem.status not in (429, 503):
                    raise
                await asyncio.sleep(PATIENCE)
                continue
            await self.stored(index.put, queues.space, numbers, feats)
            after = numbers[-1]
        await self.stored(index.keep, queues.space)
        self._complete.add(index.serial)

    async def has_read(self, index: Index) -> bool:
        """Whether all pictures of an index have features of this engine's model."""
        space = self.calls["embed_image"].space
        if index.serial not in self._complete and not await self.stored(index.lacking, space, 0, 1):
            self._complete.add(index.serial)
        return index.serial in self._complete

    async def embed_pictures(
        self, images: Sequence[bytes], queues: ModelQueues | None = None
    ) -> Floats:
        """Encoded pictures to unit vectors (n, E) of an export, the first that has the call."""
        queues = queues or self.calls["embed_image"]
        pictures = await self._read_pictures(queues, images, keep=False)
        return np.stack([picture.feat for picture in pictures])

    async def embed_texts(
        self, texts: Sequence[str], queues: ModelQueues | None = None, *, counted: bool = True
    ) -> Floats:
        """Texts to unit vectors (n, E) of an export, the first that has the call."""
        encoded = await self._read_texts(queues or self.calls["embed_text"], texts, counted=counted)
        return np.stack([text.feat for text in encoded])

    async def zero_shot(
        self, images: Sequence[bytes], labels: Sequence[str], templates: Sequence[str]
    ) -> Floats:
        """The probability (n, C) of each label for each picture, one of them being right."""
        queues = self.calls["zero_shot"]
        texts = prompts(labels, templates)
        parts = [
            await self.embed_texts(texts[part], queues, counted=False)
            for part in batches(len(texts))
        ]
        feats = await self.embed_pictures(images, queues)
        chances: Floats = queues.model.classify_features(feats, np.concatenate(parts), len(labels))
        return chances

    async def match(
        self, images: Sequence[bytes], texts: Sequence[str], queues: ModelQueues | None = None
    ) -> list[float]:
        """The probability of each pair by an export, the first that has the call; one picture or
        one text is paired with all of the other."""
        queues, count = queues or self.calls["match"], max(len(images), len(texts))
        queues.pairs.check_room(count)
        encoded = await self._read_texts(queues, texts)
        states = [each.states for each in await self._read_pictures(queues, images, keep=True)]
        pairs = [Pair(encoded[i % len(encoded)], states[i % len(states)]) for i in range(count)]  # type: ignore[arg-type]
        chances = [probability(margin) for margin in await queues.pairs(pairs)]
        for chance in chances:
            queues.sketch.count(confidence=max(chance, 1 - chance))
        return chances

    async def ask(self, call: str, images: Sequence[bytes], texts: Sequence[str]) -> list[Any]:
        """What a call of the model says of each text about the same picture or pictures."""
        queues = self.calls[call]
        queues.by_call[call].check_room(len(texts))
        self.decoders.check_room(len(images))
        square = partial(queues.square, counted=True)
        pictures = [await self._decode(square, image, i) for i, image in enumerate(images)]
        answers = await queues.by_call[call]([(*pictures, text) for text in texts])
        queues.count(texts, answers)
        return answers

    async def ground(
        self, image: bytes, expressions: Sequence[str], boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Grounded]]:
        """The picture's size, and where it shows what each expression says."""
        queues = self.calls["ground"]
        batcher = queues.by_call["ground"]
        batcher.check_room(len(expressions))
        self.decoders.check_room(1)
        await self._decode(partial(queues.square, counted=True), image, 0)
        with opened(image, "picture 0") as picture:
            size = picture.size
        grounded = await batcher([(image, text, boxes) for text in expressions])
        queues.count(expressions, grounded)
        return size, grounded

    async def add_pictures(
        self, index: Index, images: Sequence[bytes], ids: Sequence[str | None]
    ) -> list[str]:
        """Add pictures to an index; the names they have there.

        A picture without a name is called by its digest, so that adding it twice changes nothing.
        """
        queues = self.calls["embed_image"]
        pictures = await self._read_pictures(queues, images, keep=False)
        entries = [
            await self._decode(partial(_entry, queues, picture.feat, name), image, i)
            for i, (image, picture, name) in enumerate(zip(images, pictures, ids, strict=True))
        ]
        await self.stored(index.add, queues.space, entries)
        if self.successor is not None:  # which may have read the others already
            await self.successor.add_pictures(index, images, ids)
        return [entry.id for entry in entries]

    async def search(
        self, index: Index, query: str | bytes, k: int, rerank: int
    ) -> list[tuple[Hit, float | None]]:
        """The ``k`` pictures of an index of the model's own features that fit a text or an encoded
        picture best.

        ``rerank`` of the most similar are read together with the text (ITM), and stand before the
        others, the most probable first; the others have no probability.
        """
        margins: dict[int, float] = {}
        space = self.calls["embed_image"].space
        if isinstance(query, bytes):
            (picture,) = await self._read_pictures(self.calls["embed_image"], [query], keep=False)
            hits = await self.stored(index.search, space, picture.feat, k)
        else:
            queues = self.calls["embed_text"]
            (text,) = await self._read_texts(queues, [query])
            hits = await self.stored(index.search, space, text.feat, max(k, rerank))
            best = [hit.number for hit in hits[:rerank]]
            states = await self._stored_states(queues, index, best)
            pairs = [Pair(text, each) for each in states.values()]
            margins = dict(zip(states, await queues.pairs(pairs), strict=True))
        hits.sort(key=lambda hit: -margins.get(hit.number, -np.inf))  # a stable sort
        chances = {number: probability(margin) for number, margin in margins.items()}
        return [(hit, chances.get(hit.number)) for hit in hits[:k]]

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
            text = "the index cannot be read or written now"
            raise Problem(503, text, 5, code="storage") from None

    async def _stored_states(
        self, queues: ModelQueues, index: Index, numbers: Sequence[int]
    ) -> dict[int, ImageStates]:
        """The states of pictures of an index, kept for the next query."""
        states = {number: self._states.get((index.serial, number)) for number in numbers}
        missing = [number for number in numbers if states[number] is None]
        squares = {number: await self.stored(index.square, number) for number in missing}
        existing = {number: square for number, square in squares.items() if square}
        pictures = await self._read_pictures(queues, [*existing.values()], keep=True, counted=False)
        for number, picture in zip(existing, pictures, strict=True):
            assert picture.states is not None
            self._states.put((index.serial, number), picture.states)
            states[number] = picture.states
        return {number: each for number, each in states.items() if each is not None}

    async def _read_pictures(
        self, queues: ModelQueues, images: Sequence[bytes], *, keep: bool, counted: bool = True
    ) -> list[ReadPicture]:
        self.decoders.check_room(len(images))
        queues.pictures.check_room(len(images))
        decoding = [
            asyncio.ensure_future(self._decode(partial(queues.pixels, counted=counted), image, i))
            for i, image in enumerate(images)
        ]
        try:
            pixels = await asyncio.gather(*decoding)
        finally:  # where one fails, the others are given up
            for task in decoding:
                task.cancel()
        return await queues.pictures([Pixels(each, keep) for each in pixels])

    async def _read_texts(
        self, queues: ModelQueues, texts: Sequence[str], *, counted: bool = True
    ) -> list[ReadText]:
        return await queues.texts([queues.ids(text, counted=counted) for text in texts])

    async def _decode(self, call: Callable[[bytes, int], T], image: bytes, number: int) -> T:
        """What a call makes of an encoded picture, in a thread.

        Raises:
            Problem: 413 or 422, with what is wrong with the picture; 503, no thread is free.
        """

        def decoded() -> T:
            with opened(image, f"picture {number}", self.limits.pixels) as picture:
                longest = max(picture.size)
            if longest > SIDE:  # resizing and heat maps take what a side needs
                text = f"the image of picture {number} is {longest} pixels long, above {SIDE}"
                raise ImageError(text, Reason.TOO_MANY_PIXELS)
            return call(image, number)

        try:
            return await self.decoders(decoded)
        except ImageError as error:
            if error.reason == Reason.TOO_MANY_PIXELS:
                raise Problem(413, str(error), code="too_many_pixels") from None
            raise Problem(422, str(error), code="bad_picture") from None


class StatesCache:
    """Image states by index and number, those used last, up to a number of bytes."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._states: OrderedDict[tuple[int, int], ImageStates] = OrderedDict()

    def get(self, key: tuple[int, int]) -> ImageStates | None:
        """The states of a picture, if they are kept."""
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: tuple[int, int], states: ImageStates) -> None:
        """Keep the states of a picture, and let others go where there is no room."""
        if key not in self._states:
            self._states[key] = states
            self._free -= states.keys.nbytes + states.values.nbytes
        while self._free < 0:
            _, evicted = self._states.popitem(last=False)
            self._free += evicted.keys.nbytes + evicted.values.nbytes


def probability(margin: float) -> float:
    """The probability of "match" for the difference of its logits."""
    return float(1 / (1 + np.exp(-np.clip(margin, -500, 500))))


def _entry(queues: ModelQueues, feat: Floats, name: str | None, image: bytes, number: int) -> Entry:
    digest = hashlib.sha256(image).hexdigest()
    small = decode(image, f"picture {number}")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    thumbnail, square = io.BytesIO(), io.BytesIO()
    small.save(thumbnail, "JPEG", quality=85)
    queues.square(image, number).save(square, "PNG", compress_level=3)
    return Entry(name or digest[:32], digest, feat, thumbnail.getvalue(), square.getvalue())
