"""Zero-shot classification: classes that are named in words alone; no torch.

Shapes: C classes, P prompts of each, n pictures, E shared width.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

TEMPLATE = r"^[^{}]*\{\}[^{}]*$"
"""What a prompt template looks like: {} stands in it once, where the label goes."""
Templates = Annotated[tuple[Annotated[str, Field(pattern=TEMPLATE)], ...], Field(min_length=1)]


def prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every label in every template, label by label (C * P)."""
    return [template.replace("{}", label) for label in labels for template in templates]


def class_logits(
    image_feat: NDArray[Any], text_feat: NDArray[Any], classes: int, temperature: float
) -> NDArray[Any]:
    """Logits (n, C) of pictures (n, E): their similarity to each class over the temperature.

    The weights of a class are the normalised mean of ``text_feat`` (C * P, E), unit vectors of its
    :func:`prompts` (CLIP, section 3.1.4).
    """
    mean = text_feat.reshape(classes, -1, text_feat.shape[1]).mean(axis=1)
    weights = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    logits: NDArray[Any] = image_feat @ weights.T / temperature
    return logits
