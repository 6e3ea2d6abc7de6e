"""The proof that an export computes what torch computes; no torch here: it compares two models."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from albef.runtime.manifest import Verified
from albef.runtime.model import Floats, Ints, Model


class VerificationError(ValueError):
    """An export that computes something else; its text names graph, shape and difference."""


class Difference(NamedTuple):
    """One comparison of one graph.

    Attributes:
        graph: its name.
        batch: B.
        length: L, of the longest text in the batch; the others are padded.
        largest: greatest absolute difference over all of its outputs.
    """

    graph: str
    batch: int
    length: int
    largest: float


def shapes(max_tokens: int) -> list[tuple[int, int]]:
    """Batches and text lengths to compare: one text of full length, only [CLS], padded ones."""
    short = max(1, min(5, max_tokens - 1))
    return [(1, max_tokens), (2, 1), (3, short), (5, max_tokens), (8, (max_tokens + 1) // 2)]


def compare(
    reference: Model, candidate: Model, of: Sequence[tuple[int, int]]
) -> Iterator[Difference]:
    """Compare both on made-up inputs that are the same every time.

    The matcher reads each model's own states, as it does in use, so that differences add up.

    Args:
        reference: in torch.
        candidate: in ONNX Runtime.
        of: batches and text lengths.
    """
    rng = np.random.default_rng(0)
    for batch, length in of:
        pixels = rng.standard_normal((batch, 3, reference.image_size, reference.image_size))
        ids, mask = _texts(reference, batch, length, rng)
        outputs = []
        for model in (reference, candidate):
            image_states, image_feat = model.encode_image(pixels.astype(np.float32))
            text_states, text_feat = model.encode_text(ids, mask)
            logits = model.score(text_states, mask, image_states)
            outputs.append(
                {
                    "image_encoder": (image_states, image_feat),
                    "text_encoder": (text_states, text_feat),
                    "matcher": (logits,),
                }
            )
        for graph, arrays in outputs[0].items():
            pairs = zip(arrays, outputs[1][graph], strict=True)
            yield Difference(graph, batch, length, max(_largest(a, b) for a, b in pairs))


def _texts(model: Model, batch: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Random texts, the first of full length, the others padded behind random lengths."""
    lengths = rng.integers(1, length + 1, batch)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, model.tokenizer.vocab_size, (batch, length))
    ids[:, 0] = model.tokenizer.cls_id
    return np.where(mask == 1, ids, model.tokenizer.pad_id), mask


def _largest(a: Floats, b: Floats) -> float:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max())


def verify(differences: Sequence[Difference], tolerance: float) -> Verified:
    """What the manifest says of the comparison.

    Raises:
        VerificationError: a difference above ``tolerance``; the largest is named.
    """
    worst = max(differences, key=lambda difference: difference.largest)
    if not worst.largest <= tolerance:
        raise VerificationError(
            f"{worst.graph} differs from torch by {worst.largest:.2g} at batch {worst.batch} and "
            f"text length {worst.length}, above export.tolerance {tolerance:g}; nothing was "
            "exported"
        )
    largest: defaultdict[str, float] = defaultdict(float)
    for difference in differences:
        largest[difference.graph] = max(largest[difference.graph], difference.largest)
    return Verified(
        tolerance=tolerance,
        below={graph: _power_above(value) for graph, value in largest.items()},
        shapes=sorted({(difference.batch, difference.length) for difference in differences}),
    )


def _power_above(value: float) -> float:
    """The least power of ten above ``value``, from 1e-8."""
    power = -8 if value < 1e-8 else math.floor(math.log10(value)) + 1
    return float(f"1e{power}")
