"""Indexes as the models that are served read them: brought up to date, filled and searched."""

import asyncio
import hashlib
import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import numpy as np

from albef.data.image_decoding import decode, opened
from albef.runtime.model import Floats, ImageStates
from albef.serving.computing import Models, probability
from albef.serving.errors import Problem
from albef.serving.indexes.index import Entry, Hit, Index
from albef.serving.model_queues import ModelQueues, Pair

AT_ONCE = 4
"""Pictures that are read at once for no client; few, so that clients' do not wait long."""
PATIENCE = 1.0
"""Seconds after which that is tried again, where the queue is full."""
THUMBNAIL = 320
"""Longest side of a picture that is shown, in pixels."""

log = logging.getLogger("albef")


class IndexReader:
    """The indexes of a server for its models now.

    ``unfit`` has the serials of indexes that keep pictures of another size than the model reads.
    A ``successor`` reads the pictures of all indexes before it takes this one's place.
    """

    def __init__(self, models: Models) -> None:
        self._models, self._stored = models, models.stored
        self.successor: IndexReader | None = None
        self.unfit: set[int] = set()
        self._complete: set[int] = set()  # serials of indexes all of whose pictures were read
        self._states = StatesCache(models.limits.cache)

    @property
    def _queues(self) -> ModelQueues:
        return self._models.calls["embed_image"]

    async def read_all(self) -> None:
        """Bring all indexes to the model."""
        if "embed_image" in self._models.calls:
            for index in await self._stored(self._models.store.all):
                await self._read(index)

    async def _read(self, index: Index) -> None:
        """Read what an index keeps of its pictures, where a feature of the model is lacking.

        One that keeps them for a model that reads another size stays as it is.
        """
        queues, after = self._queues, 0
        while rows := await self._stored(index.lacking, queues.space, after, AT_ONCE):
            numbers, squares = zip(*rows, strict=True)
            with opened(squares[0], "of an index") as picture:
                if picture.size[0] != queues.model.facts.image_size:
                    self.unfit.add(index.serial)
                    log.warning("the index %s is not for %s", index.about.name, queues.name)
                    return
            try:
                pictures = await self._models.read_pictures(
                    queues, squares, keep=False, counted=False
                )
                feats = np.stack([each.feat for each in pictures])
            except Problem as problem:
                if problem.status not in (429, 503):
                    raise
                await asyncio.sleep(PATIENCE)
                continue
            await self._stored(index.put, queues.space, numbers, feats)
            after = numbers[-1]
        await self._stored(index.keep, queues.space)
        self._complete.add(index.serial)

    async def has_read(self, index: Index) -> bool:
        """Whether all pictures of an index have features of the model."""
        space = self._queues.space
        if index.serial not in self._complete and not await self._stored(
            index.lacking, space, 0, 1
        ):
            self._complete.add(index.serial)
        return index.serial in self._complete

    async def add(
        self, index: Index, images: Sequence[bytes], ids: Sequence[str | None]
    ) -> list[str]:
        """Add pictures to an index; the names they have there.

        A picture without a name is called by its digest, so that adding it twice changes nothing.
        """
        queues = self._queues
        pictures = await self._models.read_pictures(queues, images, keep=False)
        entries = [
            await self._models.decode(partial(_entry, queues, picture.feat, name), image, i)
            for i, (image, picture, name) in enumerate(zip(images, pictures, ids, strict=True))
        ]
        await self._stored(index.add, queues.space, entries)
        if self.successor is not None:  # which may have read the others already
            await self.successor.add(index, images, ids)
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
        queues = self._queues
        if isinstance(query, bytes):
            (picture,) = await self._models.read_pictures(queues, [query], keep=False)
            hits = await self._stored(index.search, queues.space, picture.feat, k)
        else:
            (text,) = await self._models.read_texts(queues, [query])
            hits = await self._stored(index.search, queues.space, text.feat, max(k, rerank))
            best = [hit.number for hit in hits[:rerank]]
            states = await self._stored_states(queues, index, best)
            pairs = [Pair(text, each) for each in states.values()]
            margins = dict(zip(states, await queues.pairs(pairs), strict=True))
        hits.sort(key=lambda hit: -margins.get(hit.number, -np.inf))  # a stable sort
        chances = {number: probability(margin) for number, margin in margins.items()}
        return [(hit, chances.get(hit.number)) for hit in hits[:k]]

    async def _stored_states(
        self, queues: ModelQueues, index: Index, numbers: Sequence[int]
    ) -> dict[int, ImageStates]:
        """The states of pictures of an index, kept for the next query."""
        states = {number: self._states.get((index.serial, number)) for number in numbers}
        missing = [number for number in numbers if states[number] is None]
        squares = {number: await self._stored(index.square, number) for number in missing}
        existing = {number: square for number, square in squares.items() if square}
        pictures = await self._models.read_pictures(
            queues, [*existing.values()], keep=True, counted=False
        )
        for number, picture in zip(existing, pictures, strict=True):
            assert picture.states is not None
            self._states.put((index.serial, number), picture.states)
            states[number] = picture.states
        return {number: each for number, each in states.items() if each is not None}


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


def _entry(queues: ModelQueues, feat: Floats, name: str | None, image: bytes, number: int) -> Entry:
    digest = hashlib.sha256(image).hexdigest()
    small = decode(image, f"picture {number}")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    thumbnail, square = io.BytesIO(), io.BytesIO()
    small.save(thumbnail, "JPEG", quality=85)
    queues.square(image, number).save(square, "PNG", compress_level=3)
    return Entry(name or digest[:32], digest, feat, thumbnail.getvalue(), square.getvalue())
