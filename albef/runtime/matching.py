"""Models that match images and texts: pre-training, retrieval and grounding. No torch.

Shapes: B images, T texts of each, n items, C classes, L text tokens, D width, E shared width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from albef.data.boxes import GRID, Box, around, enlarged, hottest, in_pixels
from albef.data.image_decoding import opened
from albef.preprocessing.zero_shot import TEMPLATE, class_logits, prompts
from albef.runtime.model import (
    Array,
    Floats,
    ImageInput,
    ImageStates,
    Ints,
    Model,
    batches,
    check_aligned,
    image_bytes,
    is_single,
    softmax,
)


def as_matching(model: Model, name: str) -> "Matching":
    """Return ``model``, called ``name`` in errors, as a model that matches images and texts.

    Raises:
        ValueError: the model is of another kind.
    """
    if not isinstance(model, Matching):
        raise ValueError(
            f"{name} is of kind {model.facts.kind}, which has no image-text matching; use a model "
            "of pre-training or of a retrieval run"
        )
    return model


class Matching(Model):
    """Model that embeds images and texts in one space and scores pairs by reading both together."""

    main: ClassVar[str] = "match"
    extra_calls: ClassVar[frozenset[str]] = frozenset({"embed_image", "embed_text", "zero_shot"})

    @property
    def calls(self) -> frozenset[str]:
        """Names of its calls; a model that was trained by contrast alone cannot match."""
        return super().calls - (frozenset() if self.facts.itm else {"match"})

    @property
    def embed_dim(self) -> int:
        """Width E of the shared space."""
        assert self.facts.embed_dim is not None
        return self.facts.embed_dim

    def encode_text(self, ids: Ints, text_mask: Ints) -> tuple[Array, Floats]:
        """Encode ids and mask (B, L) to ``text_states`` (B, L, D) and ``text_feat`` (B, E)."""
        out = self.backend.run("text_encoder", {"ids": ids, "text_mask": text_mask})
        return out["text_states"], out["text_feat"]

    def score(self, text_states: Array, text_mask: Ints, image: ImageStates) -> Floats:
        """Return ITM logits (B, T, 2) of T texts (B, T, L, D) for each of B encoded images.

        The logits are divided by the temperature; column 1 is "match".
        """
        return self._judge(text_states, text_mask, image)["logits"]

    def embed_image(
        self, images: ImageInput | Sequence[ImageInput], *, progress: bool = False
    ) -> Floats:
        """Embed images as unit vectors (n, E) in the space of :meth:`embed_text`.

        >>> model.embed_image(["dog.png", "cat.png"]).shape  # (2, E)
        >>> model.embed_image("dog.png").shape  # (E,)

        Args:
            images: n images: paths, encoded bytes, images of Pillow, or uint8 arrays (H, W, 3). A
                single image returns one vector (E,).
            progress: show a progress bar on stderr.

        Raises:
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
            TypeError: ``images`` has no length, such as a generator.
            ValueError: an array has another type or shape.
        """
        if is_single(images):
            feat: Floats = self.embed_image([cast(ImageInput, images)])[0]
            return feat
        images = cast(Sequence[ImageInput], images)
        check_aligned(images=images)
        parts = [
            self.encode_image(self.pixels(images[part], part.start)).feat
            for part in batches(len(images), progress)
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def embed_text(self, texts: str | Sequence[str], *, progress: bool = False) -> Floats:
        """Embed texts as unit vectors (n, E); dot products with images are similarities.

        >>> model.embed_text(["a dog", "two apples"]).shape  # (2, E)
        >>> model.embed_text("a dog").shape  # (E,)

        Args:
            texts: n texts. A single text returns one vector (E,).
            progress: show a progress bar on stderr.

        Raises:
            TypeError: ``texts`` has no length, or a text is not a str.
            ValueError: a text is blank after cleaning.
        """
        if isinstance(texts, str):
            feat: Floats = self.embed_text([texts])[0]
            return feat
        check_aligned(texts=texts)
        parts = [
            self.encode_text(*self.ids(texts[part]))[1] for part in batches(len(texts), progress)
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def zero_shot(
        self,
        images: Sequence[ImageInput],
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        progress: bool = False,
    ) -> Floats:
        """Return the probabilities (n, C) of mutually exclusive labels for each image.

        >>> model.zero_shot(["dog.png"], ["a dog", "a cat"], ["{}", "a photo of {}"])

        A class is the mean of its prompts' features.

        Args:
            images: n images, as in :meth:`embed_image`.
            labels: C labels.
            templates: texts with {} in place of the label.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: the labels or templates are empty, or a template does not contain {} once.
            ImageError: an image cannot be decoded.
        """
        check_aligned(images=images)
        check_aligned(labels=labels)
        check_aligned(templates=templates)
        if wrong := [text for text in templates if not re.match(TEMPLATE, text)]:
            raise ValueError(f"template {wrong[0]!r} must contain {{}} exactly once, for the label")
        if not labels or not templates:
            raise ValueError("zero_shot needs at least one label and one template")
        texts = self.embed_text(prompts(labels, templates))
        feats = self.embed_image(images, progress=progress)
        return self.classify_features(feats, texts, len(labels))

    def classify_features(self, image_feat: Floats, text_feat: Floats, classes: int) -> Floats:
        """Return the class probabilities (n, C) of images with features (n, E).

        ``text_feat`` (C * P, E) has the features of the classes' prompts, in the order of
        :func:`albef.preprocessing.zero_shot.prompts`.
        """
        assert self.facts.itc_temperature is not None
        return softmax(class_logits(image_feat, text_feat, classes, self.facts.itc_temperature))

    def rank_scores(self, margins: Floats, similarities: Floats) -> Floats:
        """Return the scores (n,) by which n pairs are ranked.

        Args:
            margins: differences of the two logits of :meth:`match_logits`.
            similarities: dot products of :meth:`embed_image` and :meth:`embed_text`.
        """
        weight, temperature = self.facts.itc_weight, self.facts.itc_temperature
        assert temperature is not None
        if weight is None:
            return similarities
        return margins + weight * similarities / np.float32(temperature * self.facts.temperature)

    @property
    def reranks(self) -> bool:
        """True if the model ranks pairs better by reading both than by similarity alone."""
        return self.facts.itm and self.facts.itc_weight is not None

    def match(
        self, images: Sequence[ImageInput], texts: Sequence[str], *, progress: bool = False
    ) -> Floats:
        """Return the probability (n,) that text i is the caption of image i.

        >>> model.match(["dog.png", "dog.png"], ["a dog", "two apples"]).shape  # (2,)

        It compares the text with the captions that the model was trained on. If those name
        everything in an image, a true text that names only a part has a low probability. To
        rank texts or images, compare probabilities with each other.

        The model reads both together. It therefore distinguishes what :meth:`embed_image` and
        :meth:`embed_text` do not, such as left and right, but runs once for every pair.

        Args:
            images: n images, as in :meth:`embed_image`.
            texts: n texts.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: the numbers of texts and images differ, a text is blank after cleaning, or
                the model was trained without ITM.
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
        """
        return softmax(self.match_logits(images, texts, progress=progress))[:, 1]

    def match_logits(
        self, images: Sequence[ImageInput], texts: Sequence[str], *, progress: bool = False
    ) -> Floats:
        """Return the logits (n, 2) behind :meth:`match`; column 1 is "match".

        An image object or text that occurs several times in a batch is encoded once.
        """
        check_aligned(images=images, texts=texts)
        if not self.facts.itm:
            raise ValueError(
                "this model was trained by contrast alone (itm: false); use "
                "embed_image and embed_text, or train a run with itm: true"
            )
        parts = [
            self._judge_pairs(images[part], texts[part], part.start)["logits"]
            for part in batches(len(images), progress)
        ]
        return np.concatenate([np.empty((0, 2), np.float32), *parts])

    def _judge(self, text_states: Array, text_mask: Ints, image: ImageStates) -> dict[str, Array]:
        texts = {"text_states": text_states, "text_mask": text_mask}
        out = self.backend.run("matcher", texts | image.inputs())
        return out | {"logits": out["logits"] / np.float32(self.facts.temperature)}

    def _judge_pairs(
        self, images: Sequence[ImageInput], texts: Sequence[str], start: int
    ) -> dict[str, Array]:
        """Return the outputs of the matcher for a batch of pairs, (n, ...) each."""
        image, indices = self.encode_distinct(images, start)
        distinct = list(dict.fromkeys(texts))
        ids, mask = self.ids(distinct)
        states, _ = self.encode_text(ids, mask)
        rows = [distinct.index(text) for text in texts]
        states, mask = states[rows], mask[rows]
        if len(image.keys) == 1:  # All T texts belong to one image.
            out = self._judge(states[None], mask[None], image)
            return {name: value[0] for name, value in out.items()}
        out = self._judge(states[:, None], mask[:, None], image.take(indices))
        return {name: value[:, 0] for name, value in out.items()}


@dataclass(frozen=True)
class Grounded:
    """Location of an expression in an image."""

    probability: float
    """Probability that the expression describes the image, as :meth:`Matching.match` returns it."""
    heat: Floats
    """Attention (n, n) of the expression's tokens to each patch of the image, 0 or more."""
    box: Box | None
    """Box around the hottest region, in pixels of the image; None if the map has no heat."""
    best: int | None
    """Index of the given box with the most heat over the root of its area; None without boxes."""


class Grounding(Matching):
    """Matching model that also locates texts, by attention without Grad-CAM's gradient."""

    main: ClassVar[str] = "ground"
    extra_calls: ClassVar[frozenset[str]] = Matching.extra_calls | {Matching.main}

    def ground(
        self,
        images: Sequence[ImageInput],
        expressions: Sequence[str],
        boxes: Sequence[Sequence[Box]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        *,
        progress: bool = False,
    ) -> list[Grounded]:
        """Find expression i, such as "the key beside an apple", in image i.

        >>> grounded = model.ground(["dog.png"], ["the dog"])[0]
        >>> grounded.box, grounded.probability

        Args:
            images: n images, as in :meth:`embed_image`.
            expressions: n expressions.
            boxes: for each image, boxes to choose from, in pixels of the image.
            sizes: width and height of each image; required only if the images were resized.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: the numbers of images and expressions differ, or an expression is blank.
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
        """
        boxes = boxes if boxes is not None else [()] * len(images)
        if sizes is None:
            sizes = [_size(image) for image in images]
        check_aligned(images=images, expressions=expressions, boxes=boxes, sizes=sizes)
        grounded = []
        for part in batches(len(images), progress):
            out = self._judge_pairs(images[part], expressions[part], part.start)
            chances = softmax(out["logits"])[:, 1]
            rows = zip(sizes[part], boxes[part], out["heat"], chances, strict=True)
            grounded += [self._locate(*row) for row in rows]
        return grounded

    def _locate(
        self, size: tuple[int, int], boxes: Sequence[Box], heat: Floats, chance: float
    ) -> Grounded:
        width, height = size
        assert self.facts.threshold is not None
        box = in_pixels(around(enlarged(heat, GRID, GRID), self.facts.threshold), width, height)
        best = hottest(heat, boxes, (height, width))
        return Grounded(float(chance), heat.astype(np.float32), box, best)


def _size(image: ImageInput) -> tuple[int, int]:
    with opened(image_bytes(image)) as header:
        return header.size
