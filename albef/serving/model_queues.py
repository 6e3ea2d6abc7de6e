"""An export as the server uses it: its calls are split into steps with a queue each.

Shapes: S image side, L text tokens, D width, E shared width.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef import runtime
from albef.data.boxes import Box
from albef.preprocessing.transforms import Square, normalised
from albef.runtime import manifest as manifests
from albef.runtime.matching import Grounded
from albef.runtime.model import Array, Floats, ImageStates, Ints
from albef.runtime.sessions import CPU
from albef.runtime.sketch import Sketch, read_counts
from albef.serving.batching import Batcher, Threads
from albef.serving.decoding import PROCESSES, Decoders
from albef.serving.errors import ApiError
from albef.serving.limits import BEST, Options
from albef.serving.loading import check_answers, load_faster
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import take_texts

T = TypeVar("T")
_IN_STEPS = frozenset({"embed_image", "embed_text", "match", "zero_shot"})
"""Calls that are split into steps. The model computes any other call as a whole."""

_AHEAD = 2 * PROCESSES  # Images of a request that are decoded, or in their queue, at a time.
_SAMPLED = 4  # Texts of a request that are tokenized again, to be counted.


class EncodedImage(NamedTuple):
    """An encoded image: its feature (E,), and its states if they were requested."""

    feat: Floats
    states: ImageStates | None


class EncodedText(NamedTuple):
    """An encoded text: states (L, D) and feature (E,)."""

    states: Array
    feat: Floats


class Pixels(NamedTuple):
    """An image (S, S, 3) to encode, as 8-bit RGB, and whether to keep its states."""

    pixels: NDArray[np.uint8]
    keep: bool


class Pair(NamedTuple):
    """A text and the states of one image, to be read together."""

    text: EncodedText
    image: ImageStates


class ModelQueues:
    """A loaded export with its own threads, and a :class:`Batcher` for each step.

    Answers carry its ``name``: the run and the beginning of the digest. Its ``space`` identifies
    the feature space; features of another space cannot be compared with its own. ``sketch`` counts
    the requests, ``profile`` has the counts of validation data. ``written`` is the Unix time of the
    manifest.

    Raises:
        ExportError: the folder is not an export, was changed, cannot run with these options, or
            cannot answer a test request of each call.
    """

    def __init__(
        self, folder: Path, options: Options, metrics: Metrics, decoders: Decoders
    ) -> None:
        load: Callable[..., Any] = partial(
            runtime.load,
            folder,
            threads=options.threads,
            precision=options.precision,
            min_probability=options.min_probability,
        )
        name, batch = str(folder), options.limits.batch
        self.model: Any
        if options.providers:
            self.model = load(options.providers)
        else:
            self.model = load_faster(load, name, batch)
        check_answers(self.model, name)
        if self.model.backend.providers[0] != CPU:  # Others prepare each shape at its first use.
            check_answers(self.model, name, batch)
        manifest = manifests.read(folder)
        self.run, self.precision = manifest.run, options.precision or manifest.precisions[0]
        self.name = f"{self.run}@{self.model.digest[:12]}"
        self.space = f"{self.model.digest}/{self.precision}"
        self.written = (folder / manifests.NAME).stat().st_mtime
        self.sketch, self.profile = Sketch(), read_counts(folder)
        self._decoders = decoders
        # Exports share no threads, so that a slow call of one does not hold up another.
        self.threads = Threads(options.limits.workers)

        def batcher(step: str, compute: Callable[[Any], Any], **padded: Any) -> Batcher[Any, Any]:
            fixed = self.threads, options.limits, metrics
            return Batcher(self.run, step, compute, *fixed, **padded)

        self.images: Batcher[Pixels, EncodedImage] = batcher("images", self._encode_images)
        self.texts: Batcher[list[int], EncodedText] = batcher(
            "texts", self._encode_texts, length=len
        )
        self.pairs: Batcher[Pair, float] = batcher(
            "pairs", self._match, length=lambda pair: len(pair.text.states)
        )
        whole = self.model.calls - _IN_STEPS
        self.by_call = {call: batcher(call, partial(self._ask, call)) for call in whole}
        self.batchers: list[Batcher[Any, Any]]
        self.batchers = [self.images, self.texts, self.pairs, *self.by_call.values()]

    def ids(self, text: str, *, counted: bool = False) -> list[int]:
        """Return the token ids of a text. If ``counted``, the text is added to the sketch."""
        ids: list[int] = self.model.rows([text])[0]
        if counted:
            self.sketch.text(text, ids, self.model)
        return ids

    def count(self, texts: Sequence[str], answers: Sequence[Any]) -> None:
        """Count texts of a request, the first of them, and the model's answers to all."""
        for text in texts[:_SAMPLED]:
            self.ids(text, counted=True)
        for answer in answers:
            if isinstance(answer, Grounded):
                self.sketch.count(confidence=max(answer.probability, 1 - answer.probability))
            # An empty dict means that no class is probable enough.
            elif isinstance(answer, dict) and answer:
                self.sketch.count(confidence=max(answer.values()))
            elif isinstance(answer, list) and answer:
                self.sketch.count(confidence=answer[0].probability)

    async def ask(
        self, call: str, images: Sequence[bytes], texts: Sequence[str], *boxes: Sequence[Box]
    ) -> tuple[tuple[int, int], list[Any]]:
        """Return the first image's size, and the model's answers; boxes belong to that image."""
        take_texts(len(texts))
        self.by_call[call].check_room(len(texts))
        with self._decoders.room(len(images)):
            decoded = [await self.decode(image, f"file {i}") for i, image in enumerate(images)]
        inputs, size = [Image.fromarray(each.pixels) for each in decoded], decoded[0].size
        more = (*boxes, size) if boxes else ()
        answers = await self.by_call[call]([(*inputs, text, *more) for text in texts])
        self.count(texts, answers)
        return size, answers

    async def encode_images(
        self, images: Sequence[bytes], *, keep: bool, counted: bool = True
    ) -> list[EncodedImage]:
        """Encode images to features, and to states if ``keep`` is true."""
        self.images.check_room(len(images))

        async def decode(number: int) -> Square:
            return await self.decode(images[number], f"file {number}", counted=counted)

        with self._decoders.room(len(images)):
            squares = await _in_order(decode, len(images))
        return await self.images([Pixels(square.pixels, keep) for square in squares])

    async def encode_valid_images(
        self, images: Sequence[bytes], small: int
    ) -> list[tuple[Square, EncodedImage] | ApiError]:
        """Encode images to features; an invalid image gives its error.

        The longest side of thumbnails is ``small``.
        """
        self.images.check_room(len(images))

        async def decode(number: int) -> Square | ApiError:
            try:
                return await self.decode(images[number], "the file", small=small)
            except ApiError as error:
                return error

        with self._decoders.room(len(images)):
            squares = await _in_order(decode, len(images))
        valid = [square for square in squares if isinstance(square, Square)]
        encoded = iter(await self.images([Pixels(square.pixels, False) for square in valid]))
        return [
            (square, next(encoded)) if isinstance(square, Square) else square for square in squares
        ]

    async def encode_texts(
        self, texts: Sequence[str], *, counted: bool = True
    ) -> list[EncodedText]:
        """Encode texts to states and features."""
        take_texts(len(texts))
        return await self.texts([self.ids(text, counted=counted) for text in texts])

    async def decode(
        self, image: bytes, name: str, *, counted: bool = True, small: int = 0
    ) -> Square:
        """Return an encoded image at the model's input size; see :meth:`Decoders.decode`.

        If ``counted``, the sketch counts it.
        """
        side = self.model.facts.image_size
        square = await self._decoders.decode(image, name, side, small)
        if counted:
            (width, height), brightness = square.size, float(square.pixels.mean())
            self.sketch.count(width=width, height=height, brightness=brightness)
        return square

    def _encode_images(self, items: Sequence[Pixels]) -> list[EncodedImage]:
        """Encode images. Results are copies, so keeping one does not keep its batch in memory."""
        pixels = np.stack([normalised(item.pixels) for item in items])
        states: ImageStates = self.model.encode_image(pixels)
        assert states.feat is not None
        return [
            EncodedImage(states.feat[i].copy(), states.take([i]) if item.keep else None)
            for i, item in enumerate(items)
        ]

    def _encode_texts(self, items: Sequence[list[int]]) -> list[EncodedText]:
        states, feats = self.model.encode_text(*self.model.tokenizer.pad(items))
        return [
            EncodedText(states[i, : len(item)].copy(), feats[i].copy())
            for i, item in enumerate(items)
        ]

    def _match(self, items: Sequence[Pair]) -> list[float]:
        texts, mask = _padded([item.text.states for item in items])
        # With one image, its states are not copied for each text.
        if len({id(item.image) for item in items}) == 1:
            logits = self.model.score(texts[None], mask[None], items[0].image)[0]
        else:
            keys, values, _ = zip(*(item.image for item in items), strict=True)
            states = ImageStates(np.concatenate(keys), np.concatenate(values), None)
            logits = self.model.score(texts[:, None], mask[:, None], states)[:, 0]
        return [float(yes - no) for no, yes in logits]

    def _ask(self, call: str, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the model's answers to items; each item has the arguments of one call."""
        options = {"k": BEST} if call == "ask" else {}
        answers: list[Any] = getattr(self.model, call)(
            *map(list, zip(*items, strict=True)), **options
        )
        return answers


async def _in_order(call: Callable[[int], Awaitable[T]], count: int) -> list[T]:
    """Return the results of calls with 0, 1, ..., a few at a time; if one fails, cancel all."""
    results: dict[int, T] = {}
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            results[number] = await call(number)

    workers = [asyncio.ensure_future(work()) for _ in range(min(_AHEAD, count))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [results[number] for number in range(count)]


def probability(margin: float) -> float:
    """Return the probability of "match" for the difference of its logits."""
    return float(1 / (1 + np.exp(-np.clip(margin, -500, 500))))


def _padded(items: Sequence[Array]) -> tuple[Array, Ints]:
    """Pad items (L, ...) of several lengths to (n, L, ...); return them and their mask (n, L)."""
    longest = max(map(len, items))
    padded = np.zeros((len(items), longest, *items[0].shape[1:]), items[0].dtype)
    mask = np.zeros((len(items), longest), np.int64)
    for row, item in enumerate(items):
        padded[row, : len(item)], mask[row, : len(item)] = item, 1
    return padded, mask
