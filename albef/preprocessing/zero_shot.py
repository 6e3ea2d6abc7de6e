"""Zero-shot classification into classes that are given only as words; no torch.

Shapes: C classes, P prompts per class, n images, E shared width.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

TEMPLATE = r"^[^{}]*\{\}[^{}]*$"
"""Pattern of a prompt template: it contains {} once, which stands for the label."""
Templates = Annotated[tuple[Annotated[str, Field(pattern=TEMPLATE)], ...], Field(min_length=1)]


def prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every label in every template, ordered by label (C * P)."""
    return [template.replace("{}", label) for label in labels for template in templates]


def class_logits(
    image_feat: NDArray[Any], text_feat: NDArray[Any], classes: int, temperature: float
) -> NDArray[Any]:
    """Return logits (n, C) of images (n, E): their similarity to each class over the temperature.

    The weights of a class are the normalised mean of ``text_feat`` (C * P, E), the unit vectors of
    its :func:`prompts` (CLIP, section 3.1.4).
    """
    mean = text_feat.reshape(classes, -1, text_feat.shape[1]).mean(axis=1)
    weights = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    logits: NDArray[Any] = image_feat @ weights.T / temperature
    return logits
