"""Models that classify a statement about one image or two. No torch.

Shapes: B batch, I images of a statement, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from albef.runtime.model import Floats, ImageInput, Model, batches, check_aligned, softmax

PREFIXES = ("image", "second")
"""Prefixes of the classifier's inputs for the first and the second image."""


class Classifying(Model):
    """Model that returns the probabilities of a statement's classes."""

    main: ClassVar[str] = "classify"

    def probabilities(
        self,
        images: Sequence[Sequence[ImageInput]],
        statements: Sequence[str],
        *,
        progress: bool = False,
    ) -> Floats:
        """Return probabilities (n, C) of ``facts.classes`` for n statements about I images each.

        ``images`` are I lists of n images: first images, then second ones.
        """
        parts = [np.empty((0, len(self.facts.classes)), np.float32)]
        for part in batches(len(statements), progress):
            flat = [image for column in images for image in column[part]]
            states, indices = self.encode_distinct(flat, part.start)
            ids, mask = self.ids(statements[part])
            inputs = {"ids": ids[:, None], "text_mask": mask[:, None]}
            for prefix, rows in zip(PREFIXES, np.array_split(indices, len(images)), strict=False):
                inputs |= states.take(rows).inputs(prefix)
            logits = self.backend.run("classifier", inputs)["logits"][:, 0]
            parts.append(softmax(logits / np.float32(self.facts.temperature)))
        return np.concatenate(parts)

    def classify(
        self, *images_and_statements: Sequence[Any], progress: bool = False
    ) -> list[dict[str, float]]:
        """Return the probability of each class for statement i about image i of one or more lists.

        The dict is empty if no class reaches ``min_probability``.

        Args:
            images_and_statements: one or two lists of n images, then n statements.
            progress: show a progress bar on stderr.

        Raises:
            ValueError: a statement is blank after cleaning.
            ImageError: an image cannot be decoded.
            FileNotFoundError: a path has no file.
        """
        *images, statements = images_and_statements
        rows = self.probabilities(images, statements, progress=progress).tolist()
        confident = (row if max(row) >= self.min_probability else () for row in rows)
        return [dict(zip(self.facts.classes, row, strict=False)) for row in confident]


class Entailing(Classifying):
    """Model of visual entailment."""

    main: ClassVar[str] = "entail"

    def entail(
        self, images: Sequence[ImageInput], statements: Sequence[str], *, progress: bool = False
    ) -> list[dict[str, float]]:
        """Return the probabilities that image i contradicts, leaves open or entails statement i.

        >>> model.entail(["dog.png"], ["there is an animal"])

        Raises and ``progress`` are those of :meth:`classify`.
        """
        check_aligned(images=images, statements=statements)
        return self.classify(images, statements, progress=progress)


class Comparing(Classifying):
    """Model of NLVR2, which judges statements about two images."""

    main: ClassVar[str] = "compare"

    def compare(
        self,
        firsts: Sequence[ImageInput],
        seconds: Sequence[ImageInput],
        statements: Sequence[str],
        *,
        progress: bool = False,
    ) -> list[dict[str, float]]:
        """Return the probability that statement i is true of first and second image i together.

        >>> model.compare(["dog.png"], ["cat.png"], ["both images show an animal"])

        Raises and ``progress`` are those of :meth:`classify`.
        """
        check_aligned(firsts=firsts, seconds=seconds, statements=statements)
        return self.classify(firsts, seconds, statements, progress=progress)
