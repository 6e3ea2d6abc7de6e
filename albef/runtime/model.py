"""What every finished model has, whatever computes it: how its input is prepared; no torch.

Shapes: B batch, n items, S image side, N image tokens, L text tokens, D width, F layers that read
the image, H heads.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import Evaluate
from albef.runtime.manifest import Facts

Picture = bytes | str | os.PathLike[str] | Image.Image
"""An encoded picture, the path of one, or one that Pillow has opened."""
Array = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BATCH = 32
"""Pictures, texts or pairs that are computed at once."""


class Backend(Protocol):
    """Computes the graphs of a model."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of a graph by name."""


class ImageStates(NamedTuple):
    """Encoded pictures, to be read by any number of texts."""

    keys: Array
    """(B, F, H, N, D / H)."""
    values: Array
    """(B, F, H, N, D / H)."""
    feat: Floats | None
    """(B, E), unit vectors; of kinds that match images and texts."""

    def take(self, index: Sequence[int] | Ints) -> "ImageStates":
        """Some of the pictures, in another order; all of them are not copied."""
        if list(index) == list(range(len(self.keys))):
            return self
        feat = None if self.feat is None else self.feat[index]
        return ImageStates(self.keys[index], self.values[index], feat)

    def inputs(self, name: str = "image") -> dict[str, Array]:
        """What a graph takes of them, under the name of a picture."""
        return {f"{name}_keys": self.keys, f"{name}_values": self.values}


class Model:
    """A finished model; ``digest`` is of its weights or of its export, ``answers`` the list that a
    VQA model ranks."""

    main: ClassVar[str]
    """The call that it is made for, of a list of pictures or several, and one of texts."""
    extra_calls: ClassVar[frozenset[str]] = frozenset()
    """Calls that it has beside."""
    min_probability: float = 0.0
    """Below it the first of several answers, or classes, is none."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: TextTokenizer,
        facts: Facts,
        digest: str,
        answers: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.facts = facts
        self.digest = digest
        self.answers = list(answers)
        self._resize = Evaluate(facts.image_size)

    @property
    def calls(self) -> frozenset[str]:
        """What it can be asked."""
        return self.extra_calls | {self.main}

    def __getattr__(self, name: str) -> Any:
        calls = ", ".join(sorted({self.main, *self.extra_calls}))
        raise AttributeError(f"{type(self).__name__!r} object has no {name!r}; its calls: {calls}")

    def pixels(self, images: Sequence[Picture], start: int = 0) -> Floats:
        """B pictures to normalised pixels (B, 3, S, S); ``start`` numbers the first, for errors.

        Raises:
            ImageError: a picture cannot be decoded.
            FileNotFoundError: there is no file at a path.
        """
        rows = []
        for number, image in enumerate(images, start):
            name = f"{image}" if isinstance(image, str | os.PathLike) else f"picture {number}"
            rows.append(self._resize(picture_bytes(image), name))
        return np.stack(rows)

    def encode_image(self, pixels: Floats) -> ImageStates:
        """Normalised pixels (B, 3, S, S) to what texts read of them."""
        out = self.backend.run("image_encoder", {"image": pixels})
        return ImageStates(out["image_keys"], out["image_values"], out.get("image_feat"))

    def ids(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Texts, cleaned as in training, to ids and mask (B, L)."""
        cleaned = [clean_caption(text, self.facts.max_words) for text in texts]
        return self.tokenizer.encode(cleaned, self.facts.max_tokens)

    def encode_distinct(
        self, images: Sequence[Picture], start: int
    ) -> tuple[ImageStates, list[int]]:
        """Encode each picture object once: the states, and which of them each picture has."""
        distinct = {id(image): image for image in images}
        rows = {key: i for i, key in enumerate(distinct)}
        states = self.encode_image(self.pixels(list(distinct.values()), start))
        return states, [rows[id(image)] for image in images]


def batches(count: int) -> Iterator[slice]:
    """Slices of at most :data:`BATCH` of ``count`` items."""
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))


def check_aligned(**lists: Sequence[object]) -> None:
    """See that every argument is a list, of as many items as the others.

    Raises:
        TypeError: one text or path is a sequence too, of characters.
        ValueError: the lengths differ.
    """
    for name, items in lists.items():
        if isinstance(items, str | bytes | os.PathLike | Image.Image):
            raise TypeError(f"{name}: a list is needed, also of one")
    if len({len(items) for items in lists.values()}) > 1:
        counts = " and ".join(f"{len(items)} {name}" for name, items in lists.items())
        raise ValueError(f"{counts}: as many of each are needed")


def softmax(logits: Array) -> Floats:
    """Logits (..., C) to probabilities (..., C)."""
    weights = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    result: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return result


def picture_bytes(image: Picture) -> bytes:
    """A picture as the bytes of its file."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):  # without loss, so that every picture goes the same way
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "BMP")
        return buffer.getvalue()
    with open(image, "rb") as file:
        return file.read()
