"""Check that an export computes what torch computes, graph by graph."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from albef.export.graphs import Graph
from albef.export.onnx import example
from albef.runtime.manifest import Verified
from albef.runtime.model import Array, Backend


class VerificationError(ValueError):
    """Error for an export that computes something else. It names the graph and the difference."""


class Shape(NamedTuple):
    """Sizes of the dynamic axes in a comparison."""

    batch: int
    texts: int
    length: int


class Difference(NamedTuple):
    """Largest absolute difference of a graph's outputs in one comparison."""

    graph: str
    shape: Shape
    largest: float


def shapes(max_tokens: int) -> list[Shape]:
    """Return the shapes to compare: full length, [CLS] only, padded, and several texts an image."""
    short, half = max(1, min(5, max_tokens - 1)), (max_tokens + 1) // 2
    sizes = [(1, 1, max_tokens), (2, 1, 1), (3, 2, short), (5, 1, max_tokens), (1, 8, half)]
    return [Shape(*shape) for shape in sizes]


def compare(
    graphs: Mapping[str, Graph],
    reference: Backend,
    candidate: Backend,
    cases: Sequence[Shape],
    vocab_size: int,
) -> list[Difference]:
    """Compare two backends on example inputs that are the same every time."""
    differences = []
    for shape in cases:
        sizes = {**shape._asdict(), "nodes": shape.batch + shape.length}
        for name, graph in graphs.items():
            inputs = dict(zip(graph.inputs, example(graph.inputs, sizes, vocab_size), strict=True))
            expected, result = (backend.run(name, inputs) for backend in (reference, candidate))
            worst = max(_largest(expected[output], result[output]) for output in graph.outputs)
            differences.append(Difference(name, shape, worst))
    return differences


def _largest(a: Array, b: Array) -> float:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    return float(np.abs(a - b).max())


def verify(differences: Sequence[Difference], tolerance: float) -> Verified:
    """Return the manifest's record of the comparison.

    Raises:
        VerificationError: a difference is above ``tolerance``. The message names the largest.
    """
    worst = max(differences, key=lambda difference: difference.largest)
    if not worst.largest <= tolerance:
        batch, texts, length = worst.shape
        raise VerificationError(
            f"{worst.graph} differs from torch by {worst.largest:.2g} (batch {batch}, {texts} "
            f"texts per image, {length} tokens), more than `tolerance` {tolerance:g}; nothing was "
            "exported"
        )
    below: dict[str, float] = {}  # Smallest power of ten above each difference, from 1e-8.
    for graph, _, value in differences:
        power = -8 if value < 1e-8 else math.floor(math.log10(value)) + 1
        below[graph] = max(below.get(graph, 0), float(f"1e{power}"))
    return Verified(tolerance=tolerance, below=below, shapes=sorted({d.shape for d in differences}))
