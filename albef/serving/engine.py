"""The engine of a server: its exports, the export that answers each call, and the indexes."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np

from albef.data.boxes import Box
from albef.preprocessing.zero_shot import prompts
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.runtime.matching import Grounded
from albef.runtime.model import Floats, batches
from albef.serving.decoding import PROCESSES, Decoders
from albef.serving.errors import ApiError
from albef.serving.indexes.reader import IndexReader
from albef.serving.indexes.store import GALLERY, Store
from albef.serving.limits import Options
from albef.serving.metrics import Metrics
from albef.serving.model_queues import ModelQueues, Pair, probability

ENGINE: ContextVar["Engine"] = ContextVar("engine")
"""The engine of the current request. A request keeps the engine that it started with."""


def current() -> "Engine":
    """Return the engine of the current request."""
    return ENGINE.get()


class Resources:
    """Decoders, indexes and metrics that a server's models share with those that replace them."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self.options, self.metrics = options, metrics
        self.store = Store(options.indexes, GALLERY if options.gallery else "")
        self.decoders = Decoders(PROCESSES, options.limits, metrics)

    async def close(self) -> None:
        """Close decoders and indexes."""
        await asyncio.to_thread(self.decoders.close)
        await asyncio.to_thread(self.store.close)


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
        self.models = [
            ModelQueues(folder, options, self.metrics, self.decoders) for folder in folders
        ]
        self.names = ", ".join(queues.name for queues in self.models)
        self.calls = Calls()
        for queues in self.models:
            for call in sorted(queues.model.calls):
                self.calls.setdefault(call, queues)
        self.indexes = IndexReader(self.calls, self.store, options.limits.cache)
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
        encoded = await queues.encode_images(images, keep=False)
        return np.stack([image.feat for image in encoded])

    async def embed_texts(
        self, texts: Sequence[str], queues: ModelQueues | None = None, *, counted: bool = True
    ) -> Floats:
        """Embed texts as unit vectors (n, E)."""
        queues = queues or self.calls["embed_text"]
        encoded = await queues.encode_texts(texts, counted=counted)
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
        encoded = await queues.encode_texts(texts)
        states = [each.states for each in await queues.encode_images(images, keep=True)]
        pairs = [Pair(encoded[i % len(encoded)], states[i % len(states)]) for i in range(count)]  # type: ignore[arg-type]
        margins = await queues.pairs(pairs)
        for margin in margins:
            queues.sketch.count(confidence=probability(abs(margin)))
        return margins

    async def ask(self, call: str, images: Sequence[bytes], texts: Sequence[str]) -> list[Any]:
        """Return the model's answer to each text about the same image or images."""
        return (await self.calls[call].ask(call, images, texts))[1]

    async def ground(
        self, image: bytes, expressions: Sequence[str], boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Grounded]]:
        """Return the image's size, and the location of each expression in it."""
        return await self.calls["ground"].ask("ground", [image], expressions, boxes)
