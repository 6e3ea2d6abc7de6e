"""Models that put a statement about one picture, or two, into a class; no torch.

Shapes: B batch, I pictures of a statement, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from albef.runtime.model import Floats, Model, Picture, batches, check_aligned, softmax

PREFIXES = ("image", "second")
"""What the classifier's inputs call the first picture and the second."""


class Classifying(Model):
    """Probabilities of the classes of a statement."""

    main: ClassVar[str] = "classify"

    def probabilities(
        self, images: Sequence[Sequence[Picture]], statements: Sequence[str]
    ) -> Floats:
        """Probabilities (n, C) of ``facts.classes`` for n statements about I pictures each, which
        are I lists of n: the first pictures, then the second ones."""
        parts = [np.empty((0, len(self.facts.classes)), np.float32)]
        for part in batches(len(statements)):
            pictures = [image for column in images for image in column[part]]
            states, indices = self.encode_distinct(pictures, part.start)
            ids, mask = self.ids(statements[part])
            inputs = {"ids": ids[:, None], "text_mask": mask[:, None]}
            for prefix, rows in zip(PREFIXES, np.array_split(indices, len(images)), strict=False):
                inputs |= states.take(rows).inputs(prefix)
            logits = self.backend.run("classifier", inputs)["logits"][:, 0]
            parts.append(softmax(logits / np.float32(self.facts.temperature)))
        return np.concatenate(parts)

    def classify(self, *images_and_statements: Sequence[Any]) -> list[dict[str, float]]:
        """How probable each class is of statement i about picture i of one list, or of several;
        an empty dict where none reaches ``min_probability``."""
        *images, statements = images_and_statements
        rows = self.probabilities(images, statements).tolist()
        confident = (row if max(row) >= self.min_probability else () for row in rows)
        return [dict(zip(self.facts.classes, row, strict=False)) for row in confident]


class Entailing(Classifying):
    """Visual entailment."""

    main: ClassVar[str] = "entail"

    def entail(
        self, images: Sequence[Picture], statements: Sequence[str]
    ) -> list[dict[str, float]]:
        """How probable it is that picture i contradicts, leaves open or entails statement i."""
        check_aligned(images=images, statements=statements)
        return self.classify(images, statements)


class Comparing(Classifying):
    """NLVR2."""

    main: ClassVar[str] = "compare"

    def compare(
        self, firsts: Sequence[Picture], seconds: Sequence[Picture], statements: Sequence[str]
    ) -> list[dict[str, float]]:
        """How probable it is that statement i is true of first and second picture i together."""
        check_aligned(firsts=firsts, seconds=seconds, statements=statements)
        return self.classify(firsts, seconds, statements)
