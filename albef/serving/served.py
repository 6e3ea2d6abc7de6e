"""An export as the server uses it: its calls split into steps that can be batched.

Everything here computes where it is called; nothing waits or knows of requests. Shapes: S image
side, L text tokens, D width, E shared width.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from albef import runtime
from albef.data.boxes import Box
from albef.data.image_decoding import ImageError, decode
from albef.runtime import manifest as manifests
from albef.runtime.matching import Grounded
from albef.runtime.model import Array, Floats, ImageStates, Ints, Model

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Kinds of pictures that are decoded; a long list of decoders is a long list of doors."""


class TooManyPixels(ImageError):
    """A picture whose header claims more pixels than are decoded."""


class Read(NamedTuple):
    """A picture that was read: its feature (E,), and its states where they were asked for."""

    feat: Floats
    states: ImageStates | None


class Said(NamedTuple):
    """A text that was read: states (L, D), feat (E,)."""

    states: Array
    feat: Floats


class Pixels(NamedTuple):
    """A picture (3, S, S) to be read, and whether its states are wanted."""

    pixels: Floats
    keep: bool


class Pair(NamedTuple):
    """A text and a picture (states of one) to be read together."""

    text: Said
    picture: ImageStates


class Asked(NamedTuple):
    """A question, statement or expression and the picture it is about.

    Attributes:
        picture: at the model's size, or encoded where its own size matters.
        text: what is asked.
        second: the other picture, where two are compared.
        k: answers wanted.
        boxes: to choose from, in pixels of the picture.
    """

    picture: Image.Image | bytes
    text: str
    second: Image.Image | bytes = b""
    k: int = 1
    boxes: Sequence[Box] = ()


class Served:
    """A loaded export.

    Args:
        model: of :func:`albef.runtime.load`.
        run: its name.
        precision: of its weights.

    Attributes:
        calls: what it can be asked.
        facts: what is known of it.
        digest: SHA-256 of the whole export.
    """

    def __init__(self, model: Any, run: str, precision: str) -> None:
        self.model = model  # its calls are those of its kind, so its type says little
        self.run, self.precision = run, precision
        self.calls: frozenset[str] = model.calls
        self.facts: manifests.Facts = model.facts
        self.digest: str = model.digest
        self.providers: list[str] = model.backend.providers

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threads: int = 0,
        providers: Sequence[str] | None = None,
        precision: str | None = None,
    ) -> "Served":
        """Load an export; the arguments are those of :func:`albef.runtime.load`.

        Raises:
            ExportError: it is none, was changed, or cannot run as asked.
        """
        model: Model = runtime.load(folder, providers, threads=threads, precision=precision)
        manifest = manifests.read(folder)
        return cls(model, manifest.run, precision or manifest.precisions[0])

    @property
    def name(self) -> str:
        """What answers carry: the run and the beginning of the digest."""
        return f"{self.run}@{self.digest[:12]}"

    @property
    def space(self) -> str:
        """What decides the features: an index of another one is of no use."""
        return f"{self.digest}/{self.precision}"

    def ids(self, text: str) -> Ints:
        """Token ids (L,) of a text."""
        ids: Ints = self.model.ids([text])[0][0]
        return ids

    def pixels(self, image: bytes, number: int = 0) -> Floats:
        """An encoded picture as (3, S, S).

        Raises:
            ImageError: it cannot be decoded; ``number`` stands in its text.
        """
        pixels: Floats = self.model.pixels([image], number)[0]
        return pixels

    def square(self, image: bytes, number: int = 0) -> Image.Image:
        """An encoded picture at the size that the model reads, as 8-bit RGB (S, S).

        What :meth:`pixels` gives for it, losslessly encoded, is what it gives for ``image``.

        Raises:
            ImageError: it cannot be decoded; ``number`` stands in its text.
        """
        picture = decode(image, f"picture {number}")
        side = (self.facts.image_size, self.facts.image_size)
        return picture if picture.size == side else picture.resize(side, Image.Resampling.BICUBIC)

    def read_pictures(self, items: Sequence[Pixels]) -> list[Read]:
        """Read pictures."""
        states: ImageStates = self.model.encode_image(np.stack([item.pixels for item in items]))
        assert states.feat is not None
        return [
            Read(states.feat[i].copy(), _copied(states, i) if item.keep else None)
            for i, item in enumerate(items)
        ]

    def read_texts(self, items: Sequence[Ints]) -> list[Said]:
        """Read texts, token ids (L,) each."""
        longest = max(map(len, items))
        ids = np.full((len(items), longest), self.model.tokenizer.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item)], mask[row, : len(item)] = item, 1
        states, feats = self.model.encode_text(ids, mask)
        return [
            Said(states[i, : len(item)].copy(), feats[i].copy()) for i, item in enumerate(items)
        ]

    def match(self, items: Sequence[Pair]) -> list[float]:
        """How far the logit of "match" is above that of "no match"; orders as its probability."""
        longest = max(len(item.text.states) for item in items)
        first = items[0].text.states
        texts = np.zeros((len(items), longest, first.shape[1]), first.dtype)
        mask = np.zeros((len(items), longest), np.int64)
        for row, item in enumerate(items):
            length = len(item.text.states)
            texts[row, :length], mask[row, :length] = item.text.states, 1
        if len({id(item.picture) for item in items}) == 1:  # nothing of it is copied for its texts
            logits = self.model.score(texts[None], mask[None], items[0].picture)[0]
        else:
            states = ImageStates(
                np.concatenate([item.picture.keys for item in items]),
                np.concatenate([item.picture.values for item in items]),
                None,
            )
            logits = self.model.score(texts[:, None], mask[:, None], states)[:, 0]
        return [float(yes - no) for no, yes in logits]

    def ask(self, items: Sequence[Asked]) -> list[list[tuple[str, float]]]:
        """Answers and their probabilities, the most probable first."""
        k = max(item.k for item in items)
        found = self.model.ask([item.picture for item in items], [item.text for item in items], k)
        return [own[: item.k] for own, item in zip(found, items, strict=True)]

    def entail(self, items: Sequence[Asked]) -> list[dict[str, float]]:
        """The probability of each class."""
        found: list[dict[str, float]] = self.model.entail(
            [item.picture for item in items], [item.text for item in items]
        )
        return found

    def compare(self, items: Sequence[Asked]) -> list[dict[str, float]]:
        """The probability of each class."""
        found: list[dict[str, float]] = self.model.compare(
            [item.picture for item in items],
            [item.second for item in items],
            [item.text for item in items],
        )
        return found

    def ground(self, items: Sequence[Asked]) -> list[Grounded]:
        """Where each expression points."""
        found: list[Grounded] = self.model.ground(
            [item.picture for item in items],
            [item.text for item in items],
            [item.boxes for item in items],
        )
        return found


def measured(image: bytes, most: int, number: int = 0) -> tuple[int, int]:
    """Width and height of a picture by its header, in pixels; nothing is decoded.

    Args:
        image: encoded.
        most: pixels allowed.
        number: of the picture, for errors.

    Raises:
        TooManyPixels: its header claims more.
        ImageError: it is none of :data:`FORMATS`.
    """
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooManyPixels(f"picture {number} has more than {most} pixels") from None
    except Exception:  # Pillow's readers raise whatever the bytes lead them to
        raise ImageError(
            f"picture {number} cannot be read; what can is {', '.join(FORMATS)}"
        ) from None
    if width * height > most:
        raise TooManyPixels(
            f"picture {number} has {width} x {height} pixels; at most {most} are decoded"
        )
    return width, height


def probability(margin: float) -> float:
    """The probability of "match" for the difference of its logits."""
    return float(1 / (1 + np.exp(-np.clip(margin, -500, 500))))


def _copied(states: ImageStates, i: int) -> ImageStates:
    """One of the pictures, which does not hold the others in memory."""
    return ImageStates(states.keys[i : i + 1].copy(), states.values[i : i + 1].copy(), None)
