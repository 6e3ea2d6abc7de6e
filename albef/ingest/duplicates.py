"""Comparison of rows: captions of one image, equal keys, repeated images, evaluation images."""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.rejection import Reason
from albef.ingest.blocks import SCHEMA, Blocks, digests_of
from albef.ingest.config import RowsConfig
from albef.ingest.prepare import ORIGINAL
from albef.ingest.sources import SourceConfig
from albef.ingest.sources.rows import Source

Positions = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]

TRAIN = "train"
GROUPS = pa.schema({
    "key": pa.string(), "of": pa.string(), "kind": pa.string(), "distance": pa.int32(),
    "dropped": pa.bool_(),
})  # fmt: skip
"""Columns of duplicates.parquet. ``key`` is the record of a training image, and ``of`` is the first
record of its group. ``kind`` is ``exact`` if the files are equal and ``near`` if the images only
look alike. ``distance`` is the number of different bits of the perceptual hash, and ``dropped``
is true if the image was dropped."""
HELDOUT = pa.schema({
    "dataset": pa.string(), "key": pa.string(), "digest": pa.binary(16), "look": pa.uint64(),
})  # fmt: skip
"""Columns of the images of a dataset's evaluation splits."""
LABELS = frozenset({"answers", "box", "label"})
"""Fields of meta that belong to a row's caption: rows with one of them are not merged."""
_BITS = 64
_MAX_SHIFT = 2000
"""Largest distance, in sorted order, of hashes with equal bands that are compared. A pair is missed
only if thousands of hashes differ in little but the same few bits."""


class Duplicate(NamedTuple):
    """Row that repeats another row. Whether it is dropped depends on the dataset's settings."""

    row: int
    """Number of the row."""
    reason: Reason
    """Rule that drops the row."""
    original: int
    """Number of the row that it repeats; a held-out image at position i has the number -1 - i."""
    distance: int
    """Different bits of the perceptual hashes of both."""


class Comparison(NamedTuple):
    """Result of comparing all rows of a dataset."""

    dropped: dict[int, Duplicate]
    """Rows to drop because of another row, by number."""
    first: Positions
    """Number of the row whose record has each row's captions: its own number, or an earlier one."""
    repeated: list[Duplicate]
    """All training rows that repeat an image, dropped or not, in order."""

    @property
    def merged(self) -> Mask:
        """Return which rows are merged into an earlier row; an array (N,)."""
        merged: Mask = self.first != np.arange(len(self.first))
        return merged


def read_heldout(paths: Iterable[Path]) -> pa.Table:
    """Read the images of the evaluation splits of some datasets, as :data:`HELDOUT`."""
    return pa.concat_tables([HELDOUT.empty_table(), *map(pq.read_table, paths)])


def compare(
    blocks: Blocks, config: RowsConfig, distance: int | None, heldout: pa.Table
) -> Comparison:
    """Compare all rows with each other and with evaluation images.

    ``distance`` is ``ingest.near_distance``. No screened dataset trains on the images ``heldout``,
    which are as :data:`HELDOUT`.
    """
    dropped = {duplicate.row: duplicate for duplicate in repeated_keys(blocks)}
    images = read_fingerprints(blocks)
    if config.screened:
        for duplicate in contaminated(images, heldout, distance):
            dropped.setdefault(duplicate.row, duplicate)
    first = first_rows(blocks, config.sources, dropped)
    own = first[images.row] == images.row  # A merged row repeats no image.
    repeated = repeated_images(images.select(own), set(dropped), distance)
    reasons: Sequence[Reason] = {
        "keep": (),
        "drop_exact": (Reason.DUPLICATE,),
        "drop_near": (Reason.DUPLICATE, Reason.NEAR_DUPLICATE),
    }[config.duplicates]
    of_rule = {duplicate.row: duplicate for duplicate in repeated if duplicate.reason in reasons}
    lost = np.flatnonzero(np.isin(first, list(of_rule)))  # These rows and all captions of each.
    dropped |= {row: of_rule[int(first[row])]._replace(row=row) for row in lost.tolist()}
    first[lost] = lost
    return Comparison(dropped, first, repeated)


def first_rows(
    blocks: Blocks, sources: Mapping[str, SourceConfig], dropped: Container[int]
) -> Positions:
    """Return for each row the number of the row whose record has its captions.

    These are the first rows of each image: rows of one source and split whose image files are equal
    become one record if the rest of their meta is equal too, apart from the fields that the source
    names (``fields_of_row``). Rows in ``dropped`` and rows with labels stay as they are.
    """
    named = {
        name: source.fields_of_row() if isinstance(source, Source) else None
        for name, source in sources.items()
    }
    first: Positions = np.arange(blocks.starts[-1])
    keys = np.zeros(len(first), "S16")
    if all(ignored is None for ignored in named.values()):
        return first
    for row in blocks.rows(dropped, kept=True):
        ignored, meta = named[row.values["source"]], json.loads(row.values["meta"])
        if ignored is not None and len(row.values["digests"]) == 1 and not LABELS & meta.keys():
            rest = {name: meta[name] for name in meta if name not in {*ignored, ORIGINAL}}
            image = row.values["digests"][0].hex()
            same = [row.values["source"], row.values["split"], image, rest]
            keys[row.number] = hashlib.sha256(json.dumps(same).encode()).digest()[:16]
    for number, earlier in _repeats(keys, np.flatnonzero(keys != b"")):
        first[number] = earlier
    return first


def repeated_keys(blocks: Blocks) -> Iterator[Duplicate]:
    """Yield the rows whose key an earlier row has."""
    keys = _rows(blocks)["key"].cast(pa.large_string()).combine_chunks().dictionary_encode()
    codes = keys.indices.fill_null(-1).to_numpy()  # -1 for a row that is not kept
    for row, original in _repeats(codes, np.flatnonzero(codes >= 0)):
        yield Duplicate(row, Reason.MALFORMED_ROW, original, 0)


def _repeats(values: NDArray[Any], positions: Positions) -> Iterator[tuple[int, int]]:
    """Yield each position whose value an earlier one has, and the first one that has it."""
    _, first, group = np.unique(values[positions], return_index=True, return_inverse=True)
    originals = positions[first[group]]
    for i in np.flatnonzero(originals != positions):
        yield int(positions[i]), int(originals[i])


def _rows(blocks: Blocks) -> pa.Table:
    tables = [blocks.table(block) for block in range(len(blocks))]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of all images of the rows that are kept so far, in order; each array is (N,)."""

    row: Positions
    """Number of the row that each image belongs to."""
    image_id: Positions
    digest: NDArray[np.bytes_]
    """Digest of the image's file."""
    phash: Hashes
    train: Mask
    """True if the row is in the training split."""
    single: Mask
    """True if it is the only image of the row."""

    def select(self, chosen: Mask) -> "Fingerprints":
        """Return the fingerprints of some images."""
        return Fingerprints(*(getattr(self, field.name)[chosen] for field in fields(self)))


def read_fingerprints(blocks: Blocks) -> Fingerprints:
    """Return the fingerprints of all blocks."""
    rows = _rows(blocks)
    counts = pc.list_value_length(rows["digests"]).fill_null(0).to_numpy()
    owner: Positions = np.repeat(np.arange(rows.num_rows), counts)
    return Fingerprints(
        owner,
        rows["image_id"].fill_null(0).to_numpy()[owner],
        digests_of(pc.list_flatten(rows["digests"])),
        pc.list_flatten(rows["phashes"]).to_numpy(),
        pc.equal(rows["split"], TRAIN).fill_null(False).to_numpy()[owner],
        counts[owner] == 1,
    )


def contaminated(
    images: Fingerprints, heldout: pa.Table, distance: int | None
) -> Iterator[Duplicate]:
    """Yield the training rows with an image of an evaluation split, own or held out."""
    tests = np.flatnonzero(~images.train)
    test_rows = np.concatenate([images.row[tests], -1 - np.arange(heldout.num_rows)])
    if not len(test_rows):
        return
    digests = np.concatenate([images.digest[tests], digests_of(heldout["digest"])])
    distinct, first = np.unique(digests, return_index=True)
    matches = np.searchsorted(distinct, images.digest).clip(max=len(distinct) - 1)
    equal = np.flatnonzero(images.train & (distinct[matches] == images.digest))
    matched = {int(images.row[i]): (int(test_rows[first[matches[i]]]), 0) for i in equal}
    if distance is not None:
        phashes = np.concatenate([images.phash[tests], heldout["look"].to_numpy()])
        for i, k, bits in _near_references(images.phash, images.train, phashes, distance):
            matched.setdefault(int(images.row[i]), (int(test_rows[k]), bits))
    for row, (original, bits) in sorted(matched.items()):
        yield Duplicate(row, Reason.CONTAMINATION, original, bits)


def _near_references(
    phashes: Hashes, chosen: Mask, references: Hashes, distance: int
) -> Iterator[tuple[int, int, int]]:
    """Yield chosen positions near a reference, with the nearest one and the different bits."""
    distinct = np.unique(np.concatenate([phashes[chosen], references]))
    tests, first = np.unique(references, return_index=True)
    reference_at = dict(zip(np.searchsorted(distinct, tests).tolist(), first.tolist(), strict=True))
    nearest = {position: (0, reference) for position, reference in reference_at.items()}
    for a, b, bits in near_pairs(distinct, distance):
        for position, neighbour in ((a, b), (b, a)):
            if neighbour in reference_at:
                match = bits, reference_at[neighbour]
                nearest[position] = min(nearest.get(position, match), match)
    matches = np.searchsorted(distinct, phashes).clip(max=len(distinct) - 1)
    for i in np.flatnonzero(chosen & np.isin(matches, list(nearest))).tolist():
        bits, reference = nearest[int(matches[i])]
        yield i, reference, bits


def repeated_images(
    images: Fingerprints, dropped: set[int], distance: int | None
) -> list[Duplicate]:
    """Return the training rows that repeat the image of an earlier one with another image id.

    The first row of a group is not returned. Rows in ``dropped`` are not considered.
    """
    is_eligible = images.train & images.single & ~np.isin(images.row, list(dropped))
    duplicates: dict[int, Duplicate] = {}

    def add(position: int, leader: int, reason: Reason, bits: int) -> None:
        if images.image_id[position] != images.image_id[leader]:
            row, original = int(images.row[position]), int(images.row[leader])
            duplicates[position] = Duplicate(row, reason, original, bits)

    for position, leader in _repeats(images.digest, np.flatnonzero(is_eligible)):
        add(position, leader, Reason.DUPLICATE, 0)
    if distance is not None:
        is_eligible[list(duplicates)] = False
        for position, leader, bits in _followers(
            images.phash, np.flatnonzero(is_eligible), distance
        ):
            add(position, leader, Reason.NEAR_DUPLICATE, bits)
    return sorted(duplicates.values())


def _followers(
    phashes: Hashes, positions: Positions, distance: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the position of each hash that joins a group, that of its first, and different bits.

    In order, each hash joins the first group whose first hash is near, or starts a group.
    """
    distinct, first, inverse = np.unique(phashes[positions], return_index=True, return_inverse=True)
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for a, b, bits in near_pairs(distinct, distance):
        neighbours.setdefault(a, []).append((b, bits))
        neighbours.setdefault(b, []).append((a, bits))
    leader_of: Positions = np.arange(len(distinct))
    distances = np.zeros(len(distinct), np.int64)
    for current in sorted(neighbours, key=lambda position: int(first[position])):
        candidates = [
            (int(first[neighbour]), neighbour, bits)
            for neighbour, bits in neighbours[current]
            if first[neighbour] < first[current] and leader_of[neighbour] == neighbour
        ]
        if candidates:
            _, leader_of[current], distances[current] = min(candidates)
    leaders = positions[first[leader_of[inverse]]]
    for i in np.flatnonzero(leaders != positions):
        yield int(positions[i]), int(leaders[i]), int(distances[inverse[i]])


def near_pairs(hashes: Hashes, distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield all pairs of hashes that differ in few bits, without comparing all with all.

    At least two of ``distance + 2`` bands of bits are equal in such a pair. Hashes are sorted by
    two bands at a time, and compared with those that share both. ``hashes`` (N,) are in ascending
    order, each once. Pairs are positions i < j, in ascending order, and the different bits.
    """
    edges = np.linspace(0, _BITS, distance + 3).round().astype(int)
    bands = [(1 << int(b)) - (1 << int(a)) for a, b in pairwise(edges)]
    count = max(len(hashes), 1)
    pairs = [np.empty(0, np.int64)]
    for one, two in combinations(bands, 2) if distance else ():  # Distinct hashes always differ.
        mask = np.uint64(one | two)
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        # Positions stay here while the hash ``shift`` positions later has the same key.
        positions = np.arange(len(order))
        for shift in range(1, _MAX_SHIFT + 1):
            positions = positions[: np.searchsorted(positions, len(order) - shift)]
            positions = positions[keys[positions] == keys[positions + shift]]
            if not len(positions):
                break
            left, right = order[positions], order[positions + shift]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
            left, right = left[close], right[close]
            pairs.append(np.minimum(left, right) * count + np.maximum(left, right))
    left, right = np.divmod(np.unique(np.concatenate(pairs)), count)
    bits = np.bitwise_count(hashes[left] ^ hashes[right])
    yield from zip(left.tolist(), right.tolist(), bits.tolist(), strict=True)
