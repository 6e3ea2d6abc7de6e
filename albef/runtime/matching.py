"""Models that match images and texts: pre-training and retrieval, and grounding, which also says
where; no torch.

Shapes: B images, T texts of each, n items, C classes, L text tokens, D width, E shared width.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from albef.data.boxes import GRID, Box, around, enlarged, hottest, in_pixels
from albef.preprocessing.zero_shot import TEMPLATE, class_logits, prompts
from albef.runtime.model import (
    Array,
    Floats,
    ImageStates,
    Ints,
    Model,
    Picture,
    batches,
    check_aligned,
    picture_bytes,
    softmax,
)


def as_matching(model: Model, name: str) -> "Matching":
    """A model, which an error calls ``name``, as one that matches images and texts.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(model, Matching):
        raise ValueError(
            f"{name} is of kind {model.facts.kind}, which has no image-text matching; give one of "
            "pre-training or of a retrieval run"
        )
    return model


class Matching(Model):
    """Embeds pictures and texts into one space, and judges pairs by reading both together."""

    main: ClassVar[str] = "match"
    extra_calls: ClassVar[frozenset[str]] = frozenset({"embed_image", "embed_text", "zero_shot"})

    @property
    def calls(self) -> frozenset[str]:
        """What it can be asked; an export of format 3 does not know the temperature."""
        return super().calls - ({"zero_shot"} if self.facts.itc_temperature is None else set())

    @property
    def embed_dim(self) -> int:
        """E."""
        assert self.facts.embed_dim is not None
        return self.facts.embed_dim

    def encode_text(self, ids: Ints, text_mask: Ints) -> tuple[Array, Floats]:
        """Ids and mask (B, L) to ``text_states`` (B, L, D), ``text_feat`` (B, E)."""
        out = self.backend.run("text_encoder", {"ids": ids, "text_mask": text_mask})
        return out["text_states"], out["text_feat"]

    def score(self, text_states: Array, text_mask: Ints, image: ImageStates) -> Floats:
        """ITM logits (B, T, 2) of T texts (B, T, L, D) for each of B images, divided by the
        temperature; 1 is "match".

        The image is encoded before, and nothing of it is copied for its texts.
        """
        return self._judge(text_states, text_mask, image)["logits"]

    def embed_image(self, images: Sequence[Picture]) -> Floats:
        """Pictures to unit vectors (n, E) in the space of :meth:`embed_text`.

        Raises:
            ImageError: a picture cannot be decoded.
            FileNotFoundError: there is no file at a path.
        """
        check_aligned(images=images)
        parts = [
            self.encode_image(self.pixels(images[part], part.start)).feat
            for part in batches(len(images))
        ]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Texts to unit vectors (n, E); their product with those of images is the similarity."""
        check_aligned(texts=texts)
        parts = [self.encode_text(*self.ids(texts[part]))[1] for part in batches(len(texts))]
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])

    def zero_shot(
        self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> Floats:
        """The probability (n, C) of each label for each picture, one of them being right.

        >>> model.zero_shot(["dog.png"], ["a dog", "a cat"], ["{}", "a picture of {}"])

        Args:
            images: n pictures.
            labels: names of C classes.
            templates: texts with {} in place of the label; a class is the mean of what they make.

        Raises:
            ValueError: there is no label, or a template has no place for it; or the export is of
                format 3.
            ImageError: a picture cannot be decoded.
        """
        check_aligned(labels=labels)
        check_aligned(templates=templates)
        if wrong := [text for text in templates if not re.match(TEMPLATE, text)]:
            raise ValueError(f"the template {wrong[0]!r} needs {{}} once, where the label goes")
        if not labels or not templates:
            raise ValueError("zero_shot needs a label and a template at least")
        texts = self.embed_text(prompts(labels, templates))
        return self.classify_features(self.embed_image(images), texts, len(labels))

    def classify_features(self, image_feat: Floats, text_feat: Floats, classes: int) -> Floats:
        """The probabilities (n, C) of pictures (n, E), given the features of the classes'
        prompts (C * P, E), as :func:`albef.preprocessing.zero_shot.prompts` orders them."""
        if self.facts.itc_temperature is None:
            raise ValueError("this export does not know its temperature; export the run again")
        return softmax(class_logits(image_feat, text_feat, classes, self.facts.itc_temperature))

    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Floats:
        """The probability (n,) that picture i and text i belong together.

        It reads both together, so it tells what :meth:`embed_image` and :meth:`embed_text` cannot,
        such as left from right, but has to be computed for every pair.

        Raises:
            ValueError: there are not as many texts as pictures.
            ImageError: a picture cannot be decoded.
        """
        return softmax(self.match_logits(images, texts))[:, 1]

    def match_logits(self, images: Sequence[Picture], texts: Sequence[str]) -> Floats:
        """The logits (n, 2) behind :meth:`match`; column 1 is "match".

        A picture object or text that stands several times in a batch is encoded once.
        """
        check_aligned(images=images, texts=texts)
        parts = [
            self._judge_pairs(images[part], texts[part], part.start)["logits"]
            for part in batches(len(images))
        ]
        return np.concatenate([np.empty((0, 2), np.float32), *parts])

    def _judge(self, text_states: Array, text_mask: Ints, image: ImageStates) -> dict[str, Array]:
        texts = {"text_states": text_states, "text_mask": text_mask}
        out = self.backend.run("matcher", texts | image.inputs())
        return out | {"logits": out["logits"] / np.float32(self.facts.temperature)}

    def _judge_pairs(
        self, images: Sequence[Picture], texts: Sequence[str], start: int
    ) -> dict[str, Array]:
        """What the matcher says of a batch of pairs, (n, ...) each."""
        image, indices = self.encode_distinct(images, start)
        distinct = list(dict.fromkeys(texts))
        ids, mask = self.ids(distinct)
        states, _ = self.encode_text(ids, mask)
        rows = [distinct.index(text) for text in texts]
        states, mask = states[rows], mask[rows]
        if len(image.keys) == 1:  # T texts of one picture
            out = self._judge(states[None], mask[None], image)
            return {name: value[0] for name, value in out.items()}
        out = self._judge(states[:, None], mask[:, None], image.take(indices))
        return {name: value[:, 0] for name, value in out.items()}


@dataclass(frozen=True)
class Grounded:
    """Where a picture shows what an expression says."""

    probability: float
    """That picture and expression belong together."""
    heat: Floats
    """(n, n) from 0, over the whole picture: how much the expression's tokens attend to a patch."""
    box: Box | None
    """Around the hottest region, in pixels of the picture; None of a map without heat."""
    best: int | None
    """Which of the boxes that were given holds the most heat for the root of its area."""


class Grounding(Matching):
    """Also says where. Its map is attention alone, without the gradient of Grad-CAM."""

    main: ClassVar[str] = "ground"
    extra_calls: ClassVar[frozenset[str]] = Matching.extra_calls | {Matching.main}

    def ground(
        self,
        images: Sequence[Picture],
        expressions: Sequence[str],
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> list[Grounded]:
        """Find expression i, as "the key beside an apple", in picture i; and choose from its
        ``boxes``, in pixels of the picture."""
        boxes = boxes if boxes is not None else [()] * len(images)
        check_aligned(images=images, expressions=expressions, boxes=boxes)
        grounded = []
        for part in batches(len(images)):
            out = self._judge_pairs(images[part], expressions[part], part.start)
            chances = softmax(out["logits"])[:, 1]
            rows = zip(images[part], boxes[part], out["heat"], chances, strict=True)
            grounded += [self._locate(*row) for row in rows]
        return grounded

    def _locate(
        self, image: Picture, boxes: Sequence[Box], heat: Floats, chance: float
    ) -> Grounded:
        with Image.open(io.BytesIO(picture_bytes(image))) as picture:  # reads the header only
            width, height = picture.size
        assert self.facts.threshold is not None
        box = in_pixels(around(enlarged(heat, GRID, GRID), self.facts.threshold), width, height)
        best = hottest(enlarged(heat, height, width), boxes) if boxes else None
        return Grounded(float(chance), heat.astype(np.float32), box, best)
