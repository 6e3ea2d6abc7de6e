"""Equal words, and perceptual hashes that are close to each other, by bands instead of all pairs.

Words are sorted a part at a time, those with equal upper bits, so that memory stays small.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

_BITS = 64
_PART = 4  # upper bits that the words of a part share; no band is narrower
_CHUNK = 2**16
_LONGEST = 2000
"""Places that two hashes with equal bands may lie apart, in order: only where thousands differ in
little but the same few bits are some of them not compared."""


def parts(
    words: Words, chosen: NDArray[np.bool_] | None = None, below: int = _BITS
) -> Iterator[Places]:
    """Places of words by some upper bits, in rising order of these and of the places.

    Args:
        words: (N,).
        chosen: (N,) those that are looked at; None takes all.
        below: the bits are those right below this one.
    """
    upper = np.empty(len(words), np.uint8)
    for start in range(0, len(words), _CHUNK):
        shifted = words[start : start + _CHUNK] >> np.uint64(below - _PART)
        upper[start : start + _CHUNK] = shifted & np.uint64((1 << _PART) - 1)
    for value in range(1 << _PART):
        here = upper == value
        if chosen is not None:
            here &= chosen
        yield np.flatnonzero(here)


def runs(words: Words, chosen: NDArray[np.bool_] | None = None) -> Iterator[Places]:
    """Places of equal words, in rising order, where there are several, as :func:`parts`."""
    for places in parts(words, chosen):
        own = words[places]
        order = np.argsort(own, kind="stable")
        own = own[order]
        edges = np.concatenate([[0], np.flatnonzero(own[1:] != own[:-1]) + 1, [len(own)]])
        for k in np.flatnonzero(np.diff(edges) > 1):
            yield places[order[edges[k] : edges[k + 1]]]


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
        for part in parts(hashes, below=int(mask).bit_length()):  # bits of the upper band
            found += _pairs_of(hashes, part, mask, distance, count)
    pairs = np.unique(np.concatenate(found))
    left, right = pairs // max(count, 1), pairs % max(count, 1)
    return left, right, np.bitwise_count(hashes[left] ^ hashes[right]).astype(np.int64)


def _pairs_of(
    hashes: Words, part: Places, mask: np.uint64, distance: int, count: int
) -> Iterator[Places]:
    """Near pairs i * count + j of a part that holds all hashes with some equal bands."""
    own = hashes[part]
    order = np.argsort(own & mask, kind="stable")
    part, own = part[order], own[order]
    keys = own & mask
    places = np.arange(len(part))  # that have a fellow so many places on
    for shift in range(1, _LONGEST + 1):
        places = places[: np.searchsorted(places, len(part) - shift)]
        places = places[keys[places] == keys[places + shift]]
        if not len(places):
            break
        apart = np.bitwise_count(own[places] ^ own[places + shift])
        close = places[apart <= distance]
        a, b = part[close], part[close + shift]
        yield np.minimum(a, b) * count + np.maximum(a, b)


def _masks(distance: int) -> list[np.uint64]:
    """The bits of each choice of two bands."""
    if distance == 0:
        return []  # hashes that are each there once differ
    edges = np.linspace(0, _BITS, distance + 3).round().astype(int)
    bands = [(1 << int(b)) - (1 << int(a)) for a, b in pairwise(edges)]
    return [np.uint64(a | b) for a, b in combinations(bands, 2)]
