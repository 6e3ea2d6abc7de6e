"""Preparation of inputs, common to all finished models and backends. No torch.

Shapes: B batch, n items, S image side, N image tokens, L text tokens, D width, F layers that read
the image, H heads.
"""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.data.image_decoding import flat, orientation, turned
from albef.preprocessing.text import TextTokenizer, is_blank
from albef.preprocessing.transforms import Evaluate
from albef.runtime.manifest import Facts

ImageInput = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""An encoded image, its path, an image opened by Pillow, or RGB pixels (H, W, 3)."""
Array = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BATCH = 32
"""Number of images, texts or pairs that are computed at once."""


class Backend(Protocol):
    """Runtime that computes the graphs of a model."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of a graph by name."""


class ImageStates(NamedTuple):
    """Encoded images, which any number of texts can read."""

    keys: Array
    """Keys (B, F, H, N, D / H)."""
    values: Array
    """Values (B, F, H, N, D / H)."""
    feat: Floats | None
    """Unit vectors (B, E), for kinds that match images and texts."""

    def take(self, index: Sequence[int] | Ints) -> "ImageStates":
        """Return some of the images, in a given order; nothing is copied if all are in order."""
        if list(index) == list(range(len(self.keys))):
            return self
        feat = None if self.feat is None else self.feat[index]
        return ImageStates(self.keys[index], self.values[index], feat)

    def inputs(self, name: str = "image") -> dict[str, Array]:
        """Return the inputs of a graph, named after the image ``name``."""
        return {f"{name}_keys": self.keys, f"{name}_values": self.values}


class Model:
    """Model that is ready for use.

    ``digest`` identifies its weights or its export. ``answers`` is the list that a VQA model ranks.
    """

    main: ClassVar[str]
    """Its main call. It takes one or more lists of images, and one of texts."""
    extra_calls: ClassVar[frozenset[str]] = frozenset()
    """Its other calls."""
    min_probability: float = 0.0
    """Minimum probability of the first answer or class. Below it, the model gives no answer."""

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
        """Names of its calls."""
        return self.extra_calls | {self.main}

    def __getattr__(self, name: str) -> Any:
        calls = ", ".join(sorted({self.main, *self.extra_calls}))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; its calls: {calls}")

    def pixels(self, images: Sequence[ImageInput], start: int = 0) -> Floats:
        """Convert B images to normalized pixels (B, 3, S, S); ``start`` numbers them in errors.

        Raises:
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
        """
        rows = []
        for number, image in enumerate(images, start):
            name = f"{image}" if isinstance(image, str | os.PathLike) else f"file {number}"
            rows.append(self._resize(image_bytes(image), name))
        return np.stack(rows)

    def encode_image(self, pixels: Floats) -> ImageStates:
        """Encode normalized pixels (B, 3, S, S) to the states that texts read."""
        out = self.backend.run("image_encoder", {"image": pixels})
        return ImageStates(out["image_keys"], out["image_values"], out.get("image_feat"))

    def clean(self, text: str, max_words: int) -> str:
        """Return a text as the tokenizer reads it, cut at ``max_words``."""
        return self.tokenizer.clean(text, max_words)

    def ids(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Return the token ids and mask (B, L) of texts."""
        return self.tokenizer.pad(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Clean texts as in training and return their token ids.

        Raises:
            TypeError: a text is not a str.
            ValueError: a text is blank.
        """
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {number} must be a str, got {type(text).__name__}")
            if is_blank(text):
                raise ValueError(f"text {number} is blank after cleaning: {text[:40]!r}")
        cleaned = [self.clean(text, self.facts.max_words) for text in texts]
        return self.tokenizer.rows(cleaned, self.facts.max_tokens)

    def encode_distinct(
        self, images: Sequence[ImageInput], start: int
    ) -> tuple[ImageStates, list[int]]:
        """Encode each image object once; return the states and, for each image, its row in them."""
        images = list(images)  # An array of several images returns a new object each time.
        distinct = {id(image): image for image in images}
        rows = {key: i for i, key in enumerate(distinct)}
        states = self.encode_image(self.pixels(list(distinct.values()), start))
        return states, [rows[id(image)] for image in images]


def batches(count: int, progress: bool = False) -> Iterable[slice]:
    """Return slices of at most :data:`BATCH` items that cover ``count`` items.

    With ``progress``, iteration shows a progress bar on stderr.
    """
    slices = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    if not progress:
        return slices
    from tqdm import tqdm  # Even a disabled bar starts a thread.

    bar: Iterable[slice] = tqdm(slices, desc="batches")
    return bar


def is_single(value: object) -> bool:
    """Return whether a value is one text or image, not several."""
    if isinstance(value, np.ndarray):
        return value.ndim < 4
    return isinstance(value, str | bytes | os.PathLike | Image.Image)


def check_aligned(**lists: Sequence[object]) -> None:
    """Check that every argument is a list and that all have the same length.

    Raises:
        TypeError: an argument is a single text, path or image, or has no length.
        ValueError: the lengths differ.
    """
    for name, items in lists.items():
        if is_single(items) or not hasattr(items, "__len__"):
            raise TypeError(f"{name} must be a list, got {type(items).__name__}")
    if len({len(items) for items in lists.values()}) > 1:
        counts = " and ".join(f"{len(items)} {name}" for name, items in lists.items())
        raise ValueError(f"got {counts}; the numbers must be equal")


def softmax(logits: Array) -> Floats:
    """Convert logits (..., C) to probabilities (..., C)."""
    weights = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    result: Floats = weights / weights.sum(axis=-1, keepdims=True)
    return result


def image_bytes(image: ImageInput) -> bytes:
    """Return an image as the bytes of its file.

    Raises:
        TypeError: it has another type.
        ValueError: an array is not of type uint8 and shape (H, W, 3).
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"an image is an array of {image.dtype} of shape {image.shape}; convert it to "
                "uint8 of shape (height, width, 3)"
            )
        image = Image.fromarray(image)
    # BMP is lossless, so an opened image is decoded like any other without a change.
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        turned(flat(image), orientation(image)).save(buffer, "BMP")
        return buffer.getvalue()
    if not isinstance(image, str | os.PathLike):  # open() takes numbers as descriptors.
        raise TypeError(
            "an image must be a path, encoded bytes, an image of Pillow or a uint8 array, "
            f"got {type(image).__name__}"
        )
    with open(image, "rb") as file:
        return file.read()
