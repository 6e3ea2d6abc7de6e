"""Image indexes as the current models use them: updated, filled and searched."""

import asyncio
import hashlib
import io
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from albef.data.image_decoding import opened
from albef.preprocessing.transforms import Square
from albef.runtime.model import Floats, ImageStates
from albef.serving.errors import ApiError
from albef.serving.indexes.index import Entry, Hit, Index
from albef.serving.indexes.store import Store
from albef.serving.model_queues import ModelQueues, Pair, probability

AT_ONCE = 4
"""Number of images that background work reads at once. It is small, because images of clients
must not wait long."""
RETRY_SECONDS = 1.0  # Seconds before a retry, if the queue is full
THUMBNAIL = 320  # Longest side of a displayed image, in pixels

log = logging.getLogger("albef")


class IndexReader:
    """The indexes of a server's ``store``, for the models that answer its current ``calls``.

    The cache of image states takes up to ``cache`` bytes.

    ``incompatible`` has the serials of indexes whose images do not have the model's input size. A
    ``successor`` reads the images of all indexes before it replaces this reader.
    """

    def __init__(self, calls: Mapping[str, ModelQueues], store: Store, cache: int) -> None:
        self._calls, self._store = calls, store
        self.successor: IndexReader | None = None
        self.incompatible: set[int] = set()
        self._up_to_date: set[int] = set()  # Serials of indexes whose images were all read.
        self._states = StatesCache(cache)

    @property
    def _queues(self) -> ModelQueues:
        return self._calls["embed_image"]

    async def read_all(self) -> None:
        """Update all indexes to the model."""
        if "embed_image" in self._calls:
            for index in await self._store.run(self._store.all):
                await self._read(index)

    async def _read(self, index: Index) -> None:
        """Compute the missing features of an index, if its images have the model's input size."""
        queues, after = self._queues, 0
        while rows := await self._store.run(index.without_feature, queues.space, after, AT_ONCE):
            numbers, squares = zip(*rows, strict=True)
            size = queues.model.facts.image_size
            with opened(squares[0], f"index {index.about.name}") as square:
                if square.size[0] != size:
                    self.incompatible.add(index.serial)
                    text = "cannot search the index %s: its images have side %d, %s needs %d"
                    log.warning(text, index.about.name, square.size[0], queues.name, size)
                    return
            try:
                encoded = await queues.encode_images(squares, keep=False, counted=False)
                feats = np.stack([image.feat for image in encoded])
            except ApiError as error:
                if error.status not in (429, 503):
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._store.run(index.put, queues.space, numbers, feats)
            after = numbers[-1]
        await self._store.run(index.keep, queues.space)
        self._up_to_date.add(index.serial)

    async def is_up_to_date(self, index: Index) -> bool:
        """Return whether all images of an index have features of the model."""
        space = self._queues.space
        if index.serial not in self._up_to_date and not await self._store.run(
            index.without_feature, space, 0, 1
        ):
            self._up_to_date.add(index.serial)
        return index.serial in self._up_to_date

    async def add(
        self, index: Index, images: Sequence[bytes], ids: Sequence[str | None]
    ) -> list[str | ApiError]:
        """Add images to an index; return the id of each, or the reason why it is invalid.

        An image without an id gets its digest as id, so adding it twice changes nothing.
        """
        queues = self._queues
        results: list[str | ApiError] = []
        entries = []
        encoded = await queues.encode_valid_images(images, THUMBNAIL)
        for image, name, found in zip(images, ids, encoded, strict=True):
            if isinstance(found, ApiError):
                results.append(found)
                continue
            square, each = found
            entry = await asyncio.to_thread(_entry, image, name, each.feat, square)
            entries.append(entry)
            results.append(entry.id)
        await self._store.run(index.add, queues.space, entries)
        if self.successor is not None:  # The successor may have read the other images already.
            await self.successor.add(index, images, ids)
        return results

    async def search(
        self, index: Index, query: str | bytes, k: int, rerank: int
    ) -> list[tuple[Hit, float | None]]:
        """Return the ``k`` images of an index that fit a text or an encoded image best.

        The index must have features of the model. The ``rerank`` most similar images are read
        together with the text (ITM). They come first, the most probable one at the top; the others
        have no probability.
        """
        margins: dict[int, float] = {}
        scores: dict[int, float] = {}
        queues = self._queues
        if not queues.model.reranks:
            rerank = 0
        if isinstance(query, bytes):
            (image,) = await queues.encode_images([query], keep=False)
            hits = await self._store.run(index.search, queues.space, image.feat, k)
        else:
            (text,) = await queues.encode_texts([query])
            hits = await self._store.run(index.search, queues.space, text.feat, max(k, rerank))
            best = [hit.number for hit in hits[:rerank]]
            states = await self._stored_states(queues, index, best)
            pairs = [Pair(text, each) for each in states.values()]
            margins = dict(zip(states, await queues.pairs(pairs), strict=True))
            for hit in hits:
                if hit.number in margins:
                    pair = np.float32(margins[hit.number]), np.float32(hit.similarity)
                    scores[hit.number] = float(queues.model.rank_scores(*pair))
        # The sort is stable, so the others keep their order by similarity.
        hits.sort(key=lambda hit: -scores.get(hit.number, -np.inf))
        probabilities = {number: probability(margin) for number, margin in margins.items()}
        return [(hit, probabilities.get(hit.number)) for hit in hits[:k]]

    async def _stored_states(
        self, queues: ModelQueues, index: Index, numbers: Sequence[int]
    ) -> dict[int, ImageStates]:
        """Return the states of images of an index, and cache them for the next query."""
        states = {number: self._states.get((index.serial, number)) for number in numbers}
        missing = [number for number in numbers if states[number] is None]
        squares = {number: await self._store.run(index.square, number) for number in missing}
        existing = {number: square for number, square in squares.items() if square}
        encoded = await queues.encode_images([*existing.values()], keep=True, counted=False)
        for number, image in zip(existing, encoded, strict=True):
            assert image.states is not None
            self._states.put((index.serial, number), image.states)
            states[number] = image.states
        return {number: each for number, each in states.items() if each is not None}


class StatesCache:
    """Least recently used cache of image states by index and number, limited in bytes."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._states: OrderedDict[tuple[int, int], ImageStates] = OrderedDict()

    def get(self, key: tuple[int, int]) -> ImageStates | None:
        """Return the states of an image, or None if they are not cached."""
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: tuple[int, int], states: ImageStates) -> None:
        """Cache the states of an image; evict others if the cache is full."""
        if key not in self._states:
            self._states[key] = states
            self._free -= states.keys.nbytes + states.values.nbytes
        while self._free < 0:
            _, evicted = self._states.popitem(last=False)
            self._free += evicted.keys.nbytes + evicted.values.nbytes


def _entry(image: bytes, name: str | None, feat: Floats, square: Square) -> Entry:
    digest = hashlib.sha256(image).hexdigest()
    png = io.BytesIO()
    Image.fromarray(square.pixels).save(png, "PNG", compress_level=3)
    return Entry(name or digest[:32], digest, feat, square.thumbnail, png.getvalue())
