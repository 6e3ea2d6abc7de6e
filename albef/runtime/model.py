"""A finished model, whatever computes it: pictures and texts in, arrays out; no torch.

Shapes: B batch, n items, S image side, N image tokens, L text tokens, D width (image and text may
differ), E shared width.
"""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.data.text import TextTokenizer, clean_caption
from albef.data.transforms import Evaluate

Picture = bytes | str | os.PathLike[str] | Image.Image
"""An encoded picture, the path of one, or one that Pillow has opened."""
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BATCH = 32
"""Pictures, texts or pairs that are computed at once."""


class Model(ABC):
    """Calls that a checkpoint in torch and its export in ONNX Runtime share.

    Args:
        tokenizer: of the model.
        image_size: side S of the square image, in pixels; any picture is resized to it.
        max_tokens: longest text, in tokens; what is longer is cut.
        max_words: words kept of a text.
        embed_dim: E.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        image_size: int,
        max_tokens: int,
        max_words: int,
        embed_dim: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.max_tokens = max_tokens
        self.max_words = max_words
        self.embed_dim = embed_dim
        self._resize = Evaluate(image_size)

    @abstractmethod
    def encode_image(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Normalised pixels (B, 3, S, S) to ``image_states`` (B, N, D), ``image_feat`` (B, E)."""

    @abstractmethod
    def encode_text(self, ids: Ints, text_mask: Ints) -> tuple[Floats, Floats]:
        """Ids and mask (B, L) to ``text_states`` (B, L, D), ``text_feat`` (B, E)."""

    @abstractmethod
    def score(self, text_states: Floats, text_mask: Ints, image_states: Floats) -> Floats:
        """ITM logits (B, 2) of aligned texts (B, L, D) and images (B, N, D); 1 is "match"."""

    def embed_image(self, images: Sequence[Picture]) -> Floats:
        """Pictures to unit vectors (n, E) in the space of :meth:`embed_text`.

        Raises:
            ImageError: a picture cannot be decoded.
            FileNotFoundError: there is no file at a path.
        """
        _several(images, "pictures")
        parts = [
            self.encode_image(self._pixels(images[start : start + BATCH], start))[1]
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Texts to unit vectors (n, E); their product with those of images is the similarity."""
        _several(texts, "texts")
        parts = [
            self.encode_text(*self._ids(texts[start : start + BATCH]))[1]
            for start in range(0, len(texts), BATCH)
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Floats:
        """The probability (n,) that picture i and text i belong together.

        It reads both together, so it tells what :meth:`embed_image` and :meth:`embed_text` cannot,
        such as left from right, but has to be computed for every pair.

        Raises:
            ValueError: there are not as many texts as pictures.
            ImageError: a picture cannot be decoded.
        """
        return probability(self.match_logits(images, texts))

    def match_logits(self, images: Sequence[Picture], texts: Sequence[str]) -> Floats:
        """The logits (n, 2) behind :meth:`match`; column 1 is "match".

        A picture object or text that stands several times in a batch is encoded once.
        """
        _several(images, "pictures")
        _several(texts, "texts")
        if len(images) != len(texts):
            raise ValueError(
                f"{len(images)} pictures and {len(texts)} texts: match needs a text for each"
            )
        parts = [np.empty((0, 2), np.float32)]
        for start in range(0, len(images), BATCH):
            some, said = images[start : start + BATCH], texts[start : start + BATCH]
            seen = {id(image): image for image in some}
            pictures, own = list(seen.values()), {name: i for i, name in enumerate(seen)}
            image_states, _ = self.encode_image(self._pixels(pictures, start))
            image_index = [own[id(image)] for image in some]
            distinct = list(dict.fromkeys(said))
            ids, mask = self._ids(distinct)
            text_states, _ = self.encode_text(ids, mask)
            text_index = [distinct.index(text) for text in said]
            parts.append(
                self.score(text_states[text_index], mask[text_index], image_states[image_index])
            )
        return np.concatenate(parts)

    def _pixels(self, images: Sequence[Picture], start: int) -> Floats:
        """(B, 3, S, S); ``start`` is the number of the first, for errors."""
        return np.stack(
            [
                self._resize(encoded(image), image_name(image, start + i))
                for i, image in enumerate(images)
            ]
        )

    def _ids(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        cleaned = [clean_caption(text, self.max_words) for text in texts]
        return self.tokenizer.encode(cleaned, self.max_tokens)


def probability(logits: Floats) -> Floats:
    """ITM logits (n, 2) to the probability (n,) of "match"."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = weights[:, 1] / weights.sum(axis=1)
    return result


def image_name(image: Picture, number: int) -> str:
    """What an error calls a picture: its path, or its number from 0."""
    return f"{image}" if isinstance(image, str | os.PathLike) else f"picture {number}"


def encoded(image: Picture) -> bytes:
    """A picture as the bytes of its file."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):  # without loss, so that every picture goes the same way
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PPM")
        return buffer.getvalue()
    with open(image, "rb") as file:
        return file.read()


def _several(items: object, what: str) -> None:
    """One text or path is a sequence too, of characters; refuse it."""
    if isinstance(items, str | bytes | os.PathLike | Image.Image):
        raise TypeError(f"a list of {what} is needed, also of one")
