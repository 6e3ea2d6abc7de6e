"""Which prepared rows are dropped because another one is there: equal keys, repeated pictures, and
training pictures that an evaluation split shows too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.refusal import Reason
from albef.ingest.blocks import SCHEMA, Blocks, digests_of, hash_word
from albef.ingest.config import RowsConfig

Places = NDArray[np.int64]
Words = NDArray[np.uint64]
Mask = NDArray[np.bool_]

TRAIN = "train"
GROUPS = pa.schema({
    "key": pa.string(), "of": pa.string(), "kind": pa.string(), "distance": pa.int32(),
    "dropped": pa.bool_(),
})  # fmt: skip
"""Columns of duplicates.parquet: a training picture, the first record of its group, whether its
file is equal (``exact``) or it only looks alike (``near``), in how many bits of the perceptual
hash they differ, and whether it was dropped."""
HELDOUT = pa.schema({
    "dataset": pa.string(), "key": pa.string(), "digest": pa.binary(16), "look": pa.uint64(),
})  # fmt: skip
"""Columns of the pictures of a data set's evaluation splits."""
_BITS = 64
_MAX_SHIFT = 2000
"""Places that two hashes with equal bands may lie apart, in order: only where thousands differ in
little but the same few bits are some of them not compared."""


class Duplicate(NamedTuple):
    """Why a row is dropped, or might be."""

    row: int
    """Its number."""
    reason: Reason
    """Which rule drops it."""
    original: int
    """The number of the row that it repeats; below 0, -1 - the place of a held-out one."""
    distance: int
    """Bits of the perceptual hash between them."""


def read_heldout(paths: Iterable[Path]) -> pa.Table:
    """The pictures of the evaluation splits of some data sets, as :data:`HELDOUT`."""
    return pa.concat_tables([HELDOUT.empty_table(), *map(pq.read_table, paths)])


def compare(
    blocks: Blocks, config: RowsConfig, distance: int | None, heldout: pa.Table
) -> tuple[dict[int, Duplicate], list[Duplicate]]:
    """The rows that are dropped for another one, by number; and all repeated ones, in order.

    ``distance`` are the bits in which pictures may differ that show the same; None compares files
    only. ``heldout`` are pictures that no screened data set trains on, as :data:`HELDOUT`.
    """
    dropped = {duplicate.row: duplicate for duplicate in repeated_keys(blocks)}
    pictures = read_fingerprints(blocks)
    if config.screened:
        for duplicate in contaminated(pictures, heldout, distance):
            dropped.setdefault(duplicate.row, duplicate)
    repeated = repeated_pictures(pictures, set(dropped), distance)
    reasons: Sequence[Reason] = {
        "keep": (),
        "drop_exact": (Reason.DUPLICATE,),
        "drop_near": (Reason.DUPLICATE, Reason.NEAR_DUPLICATE),
    }[config.duplicates]
    dropped |= {duplicate.row: duplicate for duplicate in repeated if duplicate.reason in reasons}
    return dropped, repeated


def repeated_keys(blocks: Blocks) -> Iterator[Duplicate]:
    """The rows whose key an earlier row has."""
    words = np.zeros(blocks.starts[-1], np.uint64)  # 0 where a row is not kept
    for block, start in enumerate(blocks.starts[:-1]):
        keys = blocks.table(block)["key"]
        places = start + np.flatnonzero(keys.is_valid().to_numpy())
        words[places] = [hash_word(key) for key in keys.drop_null().to_pylist()]
    distinct, counts = np.unique(words, return_counts=True)
    first_rows: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(words, distinct[(counts > 1) & (distinct > 0)])).tolist():
        key = blocks.at(row, "key")
        if first_rows.setdefault(key, row) != row:
            yield Duplicate(row, Reason.MALFORMED_ROW, first_rows[key], 0)


@dataclass(frozen=True)
class Fingerprints:
    """What tells all pictures of the rows that are kept so far, in order: some 45 bytes of each.

    Attributes:
        row, image_id: (N,) of the row that each belongs to.
        digest: (N,) of its file.
        look: (N,) its perceptual hash.
        train: (N,) whether the row is in the training split.
        single: (N,) whether it is the row's only picture.
    """

    row: Places
    image_id: Places
    digest: NDArray[np.bytes_]
    look: Words
    train: Mask
    single: Mask


def read_fingerprints(blocks: Blocks) -> Fingerprints:
    """The fingerprints of all blocks."""
    tables = [blocks.table(block) for block in range(len(blocks))]
    rows = pa.concat_tables([SCHEMA.empty_table(), *tables])
    counts = pc.list_value_length(rows["digests"]).fill_null(0).to_numpy()
    owner: Places = np.repeat(np.arange(rows.num_rows), counts)
    return Fingerprints(
        owner,
        rows["image_id"].fill_null(0).to_numpy()[owner],
        digests_of(pc.list_flatten(rows["digests"])),
        pc.list_flatten(rows["looks"]).to_numpy(),
        pc.equal(rows["split"], TRAIN).fill_null(False).to_numpy()[owner],
        counts[owner] == 1,
    )


def contaminated(
    pictures: Fingerprints, heldout: pa.Table, distance: int | None
) -> Iterator[Duplicate]:
    """The training rows with a picture of an evaluation split, own or held out."""
    tests = np.flatnonzero(~pictures.train)
    test_rows = np.concatenate([pictures.row[tests], -1 - np.arange(heldout.num_rows)])
    if not len(test_rows):
        return
    digests = np.concatenate([pictures.digest[tests], digests_of(heldout["digest"])])
    distinct, first = np.unique(digests, return_index=True)
    matches = np.searchsorted(distinct, pictures.digest).clip(max=len(distinct) - 1)
    equal = np.flatnonzero(pictures.train & (distinct[matches] == pictures.digest))
    matched = {int(pictures.row[i]): (int(test_rows[first[matches[i]]]), 0) for i in equal}
    if distance is not None:
        looks = np.concatenate([pictures.look[tests], heldout["look"].to_numpy()])
        for i, k, bits in _near_references(pictures.look, pictures.train, looks, distance):
            matched.setdefault(int(pictures.row[i]), (int(test_rows[k]), bits))
    for row, (original, bits) in sorted(matched.items()):
        yield Duplicate(row, Reason.CONTAMINATION, original, bits)


def _near_references(
    looks: Words, chosen: Mask, references: Words, distance: int
) -> Iterator[tuple[int, int, int]]:
    """Chosen places whose hash is near a reference: itself, that one, the bits; in order."""
    distinct = np.unique(np.concatenate([looks[chosen], references]))
    tests, first = np.unique(references, return_index=True)
    reference_at = dict(zip(np.searchsorted(distinct, tests).tolist(), first.tolist(), strict=True))
    nearest = {place: (0, reference) for place, reference in reference_at.items()}
    for a, b, bits in near_pairs(distinct, distance):
        for place, neighbour in ((a, b), (b, a)):
            if neighbour in reference_at:
                match = bits, reference_at[neighbour]
                nearest[place] = min(nearest.get(place, match), match)
    matches = np.searchsorted(distinct, looks).clip(max=len(distinct) - 1)
    for i in np.flatnonzero(chosen & np.isin(matches, list(nearest))).tolist():
        bits, reference = nearest[int(matches[i])]
        yield i, reference, bits


def repeated_pictures(
    pictures: Fingerprints, dropped: set[int], distance: int | None
) -> list[Duplicate]:
    """The training rows whose picture an earlier training row of another image id shows.

    The first of a group stays; one that looks alike is near to that first one. Rows of
    ``dropped`` are dropped already.
    """
    is_eligible = pictures.train & pictures.single & ~np.isin(pictures.row, list(dropped))
    duplicates: dict[int, Duplicate] = {}

    def add(place: int, leader: int, reason: Reason, bits: int) -> None:
        if pictures.image_id[place] != pictures.image_id[leader]:
            row, original = int(pictures.row[place]), int(pictures.row[leader])
            duplicates[place] = Duplicate(row, reason, original, bits)

    for bucket in _buckets(pictures.digest.view(np.uint64)[::2]):
        places = bucket[is_eligible[bucket]]
        _, first, group = np.unique(pictures.digest[places], return_index=True, return_inverse=True)
        leaders = places[first[group]]
        for i in np.flatnonzero(leaders != places):
            add(int(places[i]), int(leaders[i]), Reason.DUPLICATE, 0)
    if distance is not None:
        is_eligible[list(duplicates)] = False
        for place, leader, bits in _followers(pictures.look, np.flatnonzero(is_eligible), distance):
            add(place, leader, Reason.NEAR_DUPLICATE, bits)
    return sorted(duplicates.values())


def _buckets(words: Words, below: int = _BITS) -> Iterator[Places]:
    """Places of words by the four bits below one, so that sorting takes little memory."""
    upper = (words >> np.uint64(below - 4)).astype(np.uint8) & 15
    for value in range(16):
        yield np.flatnonzero(upper == value)


def _followers(looks: Words, places: Places, distance: int) -> Iterator[tuple[int, int, int]]:
    """Places of hashes with the place of the first of their group, and the bits between them.

    In order of place, each hash joins the first group whose first one is near, or begins one.
    """
    distinct, first, inverse = np.unique(looks[places], return_index=True, return_inverse=True)
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for a, b, bits in near_pairs(distinct, distance):
        neighbours.setdefault(a, []).append((b, bits))
        neighbours.setdefault(b, []).append((a, bits))
    leader_of: Places = np.arange(len(distinct))
    distances = np.zeros(len(distinct), np.int64)
    for current in sorted(neighbours, key=lambda place: int(first[place])):
        candidates = [
            (int(first[neighbour]), neighbour, bits)
            for neighbour, bits in neighbours[current]
            if first[neighbour] < first[current] and leader_of[neighbour] == neighbour
        ]
        if candidates:
            _, leader_of[current], distances[current] = min(candidates)
    leaders = places[first[leader_of[inverse]]]
    for i in np.flatnonzero(leaders != places):
        yield int(places[i]), int(leaders[i]), int(distances[inverse[i]])


def near_pairs(hashes: Words, distance: int) -> Iterator[tuple[int, int, int]]:
    """All pairs of hashes that differ in few bits, by bands instead of comparing all with all.

    Of ``distance + 2`` bands of bits at least two are equal in such a pair, so that hashes are
    sorted by two bands at a time and compared with those that share both.

    Args:
        hashes: (N,) in rising order, each once.
        distance: most bits in which two differ.

    Returns:
        Places i and j of each pair, i < j, in rising order; and the number of bits.
    """
    edges = np.linspace(0, _BITS, distance + 3).round().astype(int)
    bands = [(1 << int(b)) - (1 << int(a)) for a, b in pairwise(edges)]
    count = max(len(hashes), 1)
    pairs = [np.empty(0, np.int64)]
    for one, two in combinations(bands, 2) if distance else ():  # hashes that are there once differ
        mask = np.uint64(one | two)
        for bucket in _buckets(hashes, below=int(mask).bit_length()):  # bits of the upper band
            order = bucket[np.argsort(hashes[bucket] & mask, kind="stable")]
            keys = hashes[order] & mask
            places = np.arange(len(order))  # that have a fellow so many places on
            for shift in range(1, _MAX_SHIFT + 1):
                places = places[: np.searchsorted(places, len(order) - shift)]
                places = places[keys[places] == keys[places + shift]]
                if not len(places):
                    break
                left, right = order[places], order[places + shift]
                close = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
                left, right = left[close], right[close]
                pairs.append(np.minimum(left, right) * count + np.maximum(left, right))
    left, right = np.divmod(np.unique(np.concatenate(pairs)), count)
    bits = np.bitwise_count(hashes[left] ^ hashes[right])
    yield from zip(left.tolist(), right.tolist(), bits.tolist(), strict=True)
