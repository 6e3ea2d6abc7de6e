"""Perceptual hashes that are close to each other, found by bands instead of all pairs."""

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

_BITS = 64
_LONGEST = 2000
"""Places that two hashes with equal bands may lie apart, in order: only where thousands differ in
little but the same few bits are some of them not compared."""


def near_pairs(hashes: Words, distance: int) -> tuple[Places, Places, Places]:
    """All pairs of hashes that differ in few bits.

    Of ``distance + 2`` bands of bits at least two are equal in such a pair, so that hashes are
    sorted by two bands at a time and compared with those that share both.

    Args:
        hashes: (N,) in rising order, each once.
        distance: most bits in which two differ.

    Returns:
        Places i and j of each pair, i < j, in rising order; and the number of bits.
    """
    found = [np.empty(0, np.int64)]
    count = len(hashes)
    for mask in _masks(distance):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        places = np.arange(count)  # that have a fellow so many places on
        for shift in range(1, _LONGEST + 1):
            places = places[: np.searchsorted(places, count - shift)]
            places = places[keys[places] == keys[places + shift]]
            if not len(places):
                break
            apart = np.bitwise_count(sorted_hashes[places] ^ sorted_hashes[places + shift])
            close = places[apart <= distance]
            a, b = order[close], order[close + shift]
            found.append(np.minimum(a, b) * count + np.maximum(a, b))
    pairs = np.unique(np.concatenate(found))
    left, right = pairs // max(count, 1), pairs % max(count, 1)
    return left, right, np.bitwise_count(hashes[left] ^ hashes[right]).astype(np.int64)


def _masks(distance: int) -> list[np.uint64]:
    """The bits of each choice of two bands."""
    if distance == 0:
        return []  # hashes that are each there once differ
    edges = np.linspace(0, _BITS, distance + 3).round().astype(int)
    bands = [(1 << int(b)) - (1 << int(a)) for a, b in pairwise(edges)]
    return [np.uint64(a | b) for a, b in combinations(bands, 2)]
