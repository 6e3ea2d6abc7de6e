"""The exports of a server and what requests ask of them, computed in threads and in batches."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from albef.data.boxes import Box
from albef.data.image_decoding import ImageError, opened
from albef.data.refusal import Reason
from albef.preprocessing.zero_shot import prompts
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.runtime.matching import Grounded
from albef.runtime.model import Floats, batches
from albef.serving.errors import Problem
from albef.serving.indexes.store import GALLERY, Store
from albef.serving.limits import SIDE, Limits, Options
from albef.serving.metrics import Metrics
from albef.serving.model_queues import ModelQueues, Pair, Pixels, ReadPicture, ReadText

T = TypeVar("T")
_DECODERS = 2  # threads; one more than computes keeps a batch ready
_READERS = 2  # threads of the indexes

log = logging.getLogger("albef")


class Decoders:
    """Threads that decode pictures; one that nobody waits for any more is left out."""

    def __init__(self, threads: int, limits: Limits, metrics: Metrics) -> None:
        self.pool = ThreadPoolExecutor(threads, "decode")
        self._waiting, self._limits, self._metrics = 0, limits, metrics
        metrics.waiting.labels("", "decode").set_function(lambda: self._waiting)

    def check_room(self, count: int) -> None:
        """See that ``count`` pictures find room.

        Raises:
            Problem: 429, they do not.
        """
        if self._waiting + count > self._limits.queue:
            self._metrics.refused.labels("queue").inc()
            raise Problem(429, f"{self._waiting} pictures wait to be decoded", 1)

    async def __call__(self, call: Callable[[], T]) -> T:
        """What a call returns, in a thread."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, call)
        finally:
            self._waiting -= 1


class Resources:
    """What models of a server share with those that replace them: threads, indexes, numbers."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self.options, self.metrics = options, metrics
        self.store = Store(options.indexes, GALLERY if options.gallery else "")
        self.decoders = Decoders(_DECODERS, options.limits, metrics)
        self.computing = ThreadPoolExecutor(options.workers, "compute")
        self.reading = ThreadPoolExecutor(_READERS, "index")

    async def close(self) -> None:
        """Let go of threads and indexes."""
        for pool in (self.decoders.pool, self.computing, self.reading):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        self.store.close()


class Models:
    """The exports that the folders hold now (``models``); of those that have a call the first one
    answers it (``calls``). Where digests are expected, no other is loaded.

    Raises:
        ExportError: a folder holds no export, a changed or another one, or cannot run as asked.
    """

    def __init__(self, resources: Resources) -> None:
        options = resources.options
        self.resources, self.metrics, self.limits = resources, resources.metrics, options.limits
        self.store, self.decoders = resources.store, resources.decoders
        folders = [folder.resolve() for folder in options.exports]  # a link may lead elsewhere soon
        for folder in folders if options.expect else ():
            if (digest := f"sha256:{manifest.digest(folder)}") not in options.expect:
                text = f"{folder} is {digest}, which --expect does not name: not loaded"
                raise ExportError(text)
        self.models = [
            ModelQueues(folder, resources.computing, options, self.metrics) for folder in folders
        ]
        self.calls: dict[str, ModelQueues] = {}
        for queues in self.models:
            for call in sorted(queues.model.calls):
                self.calls.setdefault(call, queues)

    async def embed_pictures(
        self, images: Sequence[bytes], queues: ModelQueues | None = None
    ) -> Floats:
        """Encoded pictures to unit vectors (n, E) of an export, the first that has the call."""
        queues = queues or self.calls["embed_image"]
        pictures = await self.read_pictures(queues, images, keep=False)
        return np.stack([picture.feat for picture in pictures])

    async def embed_texts(
        self, texts: Sequence[str], queues: ModelQueues | None = None, *, counted: bool = True
    ) -> Floats:
        """Texts to unit vectors (n, E) of an export, the first that has the call."""
        encoded = await self.read_texts(queues or self.calls["embed_text"], texts, counted=counted)
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
        encoded = await self.read_texts(queues, texts)
        states = [each.states for each in await self.read_pictures(queues, images, keep=True)]
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
        pictures = [await self.decode(square, image, i) for i, image in enumerate(images)]
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
        await self.decode(partial(queues.square, counted=True), image, 0)
        with opened(image, "picture 0") as picture:
            size = picture.size
        grounded = await batcher([(image, text, boxes) for text in expressions])
        queues.count(expressions, grounded)
        return size, grounded

    async def read_pictures(
        self, queues: ModelQueues, images: Sequence[bytes], *, keep: bool, counted: bool = True
    ) -> list[ReadPicture]:
        """Encoded pictures to features, and states where they are to be kept."""
        self.decoders.check_room(len(images))
        queues.pictures.check_room(len(images))
        decoding = [
            asyncio.ensure_future(self.decode(partial(queues.pixels, counted=counted), image, i))
            for i, image in enumerate(images)
        ]
        try:
            pixels = await asyncio.gather(*decoding)
        finally:  # where one fails, the others are given up
            for task in decoding:
                task.cancel()
        return await queues.pictures([Pixels(each, keep) for each in pixels])

    async def read_texts(
        self, queues: ModelQueues, texts: Sequence[str], *, counted: bool = True
    ) -> list[ReadText]:
        """Texts to states and features."""
        return await queues.texts([queues.ids(text, counted=counted) for text in texts])

    async def decode(self, call: Callable[[bytes, int], T], image: bytes, number: int) -> T:
        """What a call makes of an encoded picture, in a thread.

        Raises:
            Problem: 413 or 422, with what is wrong with the picture.
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

    async def stored(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call on an index returns, in a thread.

        Raises:
            Problem: 503, its file cannot be read or written now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.resources.reading, call, *arguments)
        except (sqlite3.Error, OSError) as error:
            log.error("an index cannot be used: %s", error)
            text = "the index cannot be read or written now"
            raise Problem(503, text, 5, code="storage") from None


def probability(margin: float) -> float:
    """The probability of "match" for the difference of its logits."""
    return float(1 / (1 + np.exp(-np.clip(margin, -500, 500))))
