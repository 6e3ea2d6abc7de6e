"""Which prepared rows are dropped because another one is there: equal keys, repeated pictures, and
training pictures that an evaluation split shows too.

Rows are compared by arrays on disk with a few words for each, a part at a time; their texts are
read where they are needed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.refusal import Reason
from albef.ingest.blocks import Blocks
from albef.ingest.near_duplicates import Places, Words, near_pairs, parts, runs

TRAIN = "train"
GROUPS = pa.schema(
    [
        ("key", pa.string()),
        ("of", pa.string()),
        ("kind", pa.string()),
        ("distance", pa.int32()),
        ("dropped", pa.bool_()),
    ]
)
"""Columns of duplicates.parquet: a training picture, the first record of its group, whether its
file is equal (``exact``) or it only looks alike (``near``), in how many bits of the perceptual
hash they differ, and whether it was dropped."""

HELDOUT = pa.schema(
    [
        ("dataset", pa.string()),
        ("key", pa.string()),
        ("digest", pa.binary(16)),
        ("look", pa.uint64()),
    ]
)
"""Columns of the pictures of a data set's evaluation splits."""


class Twin(NamedTuple):
    """Why a row is dropped, or might be.

    Attributes:
        row: its number.
        reason: which rule drops it.
        other: the number of the row that it repeats; below 0, -1 - the place of a held-out one.
        distance: bits of the perceptual hash between them.
    """

    row: int
    reason: Reason
    other: int
    distance: int


@dataclass(frozen=True)
class Prints:
    """The prints of all pictures of the rows that are kept so far, in order.

    Attributes:
        row, image_id: (N,) of the row that each belongs to.
        digest: (N,) the first eight bytes.
        look: (N,) perceptual hashes.
        train: (N,) whether the row is in the training split.
        single: (N,) whether it is the row's only picture.
    """

    row: Places
    image_id: Places
    digest: Words
    look: Words
    train: NDArray[np.bool_]
    single: NDArray[np.bool_]


def prints(blocks: Blocks) -> Prints:
    """The prints of all blocks, on disk beside them."""
    kinds = ("i8", "i8", "u8", "u8", "?", "?")
    count = sum(int(_counts(blocks, block).sum()) for block in range(len(blocks)))
    columns = [blocks.array(kind, count) for kind in kinds]
    start = 0
    for block in range(len(blocks)):
        own = _of_block(blocks, block)
        for column, values in zip(columns, own, strict=True):
            column[start : start + len(values)] = values
        start += len(own[0])
    return Prints(*columns)


def _counts(blocks: Blocks, block: int) -> Places:
    """Pictures of each row of a block that is kept so far."""
    lengths = pc.list_value_length(blocks.table(block)["digests"]).fill_null(0)
    return np.asarray(lengths.to_numpy(), np.int64)


def _of_block(blocks: Blocks, block: int) -> tuple[Any, ...]:
    table, counts = blocks.table(block).combine_chunks(), _counts(blocks, block)
    owner = np.repeat(np.arange(table.num_rows), counts)
    taken = table.select(["image_id", "split"]).take(pa.array(owner))
    return (
        blocks.starts[block] + owner,
        taken["image_id"].to_numpy(),
        _words(pc.list_flatten(table["digests"])),
        pc.list_flatten(table["looks"]).to_numpy(),
        taken["split"].to_numpy() == TRAIN,
        counts[owner] == 1,
    )


def _words(digests: Any) -> Words:
    """The first eight bytes of binary values of 16."""
    return np.frombuffer(b"".join(digests.to_pylist()), np.uint64).reshape(-1, 2)[:, 0]


def repeated_keys(blocks: Blocks) -> Iterator[Twin]:
    """The rows whose key an earlier row has."""
    words = blocks.array("u8", blocks.starts[-1])
    kept = blocks.array("?", blocks.starts[-1])
    for block, start in enumerate(blocks.starts[:-1]):
        keys = blocks.table(block)["key"]
        here = np.flatnonzero(keys.is_valid().to_numpy())
        kept[start + here] = True
        words[start + here] = [_word(key) for key in keys.drop_null().to_pylist()]
    for run in runs(words, kept):
        first: dict[str, int] = {}
        for row in run.tolist():
            key = blocks.at(row, "key")
            if first.setdefault(key, row) != row:
                yield Twin(row, Reason.MALFORMED_ROW, first[key], 0)


def _word(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def contaminated(
    own: Prints, heldout: pa.Table, distance: int | None, blocks: Blocks
) -> Iterator[Twin]:
    """The training rows with a picture of an evaluation split, own or held out.

    Args:
        own: the prints.
        heldout: of the schema :data:`HELDOUT`.
        distance: bits in which pictures may differ that show the same; None compares files only.
        blocks: where the rows are.
    """
    tests = np.flatnonzero(~own.train)
    others = np.concatenate([own.row[tests], -1 - np.arange(heldout.num_rows)])
    digests = np.concatenate([own.digest[tests], _words(heldout["digest"])])
    looks = np.concatenate([own.look[tests], heldout["look"].to_numpy()])
    matched = {
        int(own.row[i]): (int(others[k]), 0)
        for i, k in _equal(own.digest, own.train, digests)
        if _digests(blocks, int(own.row[i])) & _digests(blocks, int(others[k]), heldout)
    }
    if distance is not None:
        for i, k, bits in _alike(own.look, own.train, looks, distance, blocks):
            matched.setdefault(int(own.row[i]), (int(others[k]), bits))
    for row, (other, bits) in sorted(matched.items()):
        yield Twin(row, Reason.CONTAMINATION, other, bits)


def repeated(own: Prints, gone: set[int], distance: int | None, blocks: Blocks) -> Iterator[Twin]:
    """The training rows whose picture an earlier training row of another image id shows.

    The first of a group stays; one that looks alike is near to that first one.

    Args:
        own: the prints.
        gone: numbers of the rows that are dropped already.
        distance: as for :func:`contaminated`.
        blocks: where the rows are.
    """
    left = own.train & own.single
    if gone:
        left &= ~np.isin(own.row, np.fromiter(gone, np.int64))
    twins: dict[int, Twin] = {}
    for run in runs(own.digest, left):
        first, *later = run.tolist()
        for i in later:
            row, other = int(own.row[i]), int(own.row[first])
            if own.image_id[i] == own.image_id[first]:
                continue
            if _digests(blocks, row) == _digests(blocks, other):
                twins[i] = Twin(row, Reason.DUPLICATE, other, 0)
    if distance is not None:
        left[list(twins)] = False
        for i, first, bits in _followers(own.look, left, distance, blocks):
            if own.image_id[i] != own.image_id[first]:
                row, other = int(own.row[i]), int(own.row[first])
                twins[i] = Twin(row, Reason.NEAR_DUPLICATE, other, bits)
    yield from sorted(twins.values())


def _digests(blocks: Blocks, row: int, heldout: pa.Table | None = None) -> set[bytes]:
    """The digests of a row's pictures, or of the held-out one that a number below 0 names."""
    if row < 0 and heldout is not None:
        return {heldout["digest"][-1 - row].as_py()}
    return set(blocks.at(row, "digests"))


def _followers(
    looks: Words, chosen: NDArray[np.bool_], distance: int, blocks: Blocks
) -> Iterator[tuple[int, int, int]]:
    """Places of hashes with the place of the first of their group, and the bits between them.

    In order of place, each hash joins the first group whose first one is near, or begins one.
    """
    known, first = _distinct(looks, chosen, blocks)
    near: dict[int, list[tuple[int, int]]] = {}
    for a, b, bits in zip(*map(np.ndarray.tolist, near_pairs(known, distance)), strict=True):
        near.setdefault(a, []).append((b, bits))
        near.setdefault(b, []).append((a, bits))
    leader: dict[int, tuple[int, int]] = {}
    for own in sorted(near, key=lambda place: int(first[place])):
        heads = [
            (int(first[other]), other, bits)
            for other, bits in near[own]
            if first[other] < first[own] and other not in leader
        ]
        if heads:
            _, head, bits = min(heads)
            leader[own] = head, bits
    led = np.array(sorted(leader), np.int64)
    for places in parts(looks, chosen):
        which = np.searchsorted(known, looks[places])
        follows = np.isin(which, led) | (first[which] != places)
        for j in np.flatnonzero(follows).tolist():
            head, bits = leader.get(int(which[j]), (int(which[j]), 0))
            yield int(places[j]), int(first[head]), bits


def _alike(
    looks: Words, chosen: NDArray[np.bool_], others: Words, distance: int, blocks: Blocks
) -> list[tuple[int, int, int]]:
    """Chosen places whose hash is near one of ``others``: itself, that one, the bits; in order."""
    tests, at = np.unique(others, return_index=True)  # the first of equal ones
    known = _merged(_distinct(looks, chosen, blocks)[0], tests, blocks)
    held = dict(zip(np.searchsorted(known, tests).tolist(), at.tolist(), strict=True))
    best = {place: (0, other) for place, other in held.items()}
    for a, b, bits in zip(*map(np.ndarray.tolist, near_pairs(known, distance)), strict=True):
        for place, other in ((a, b), (b, a)):
            if other in held:
                here = bits, held[other]
                best[place] = min(best.get(place, here), here)
    wanted = np.array(sorted(best), np.int64)
    found = []
    for places in parts(looks, chosen):
        which = np.searchsorted(known, looks[places])
        for j in np.flatnonzero(np.isin(which, wanted)).tolist():
            bits, other = best[int(which[j])]
            found.append((int(places[j]), other, bits))
    return sorted(found)


def _distinct(looks: Words, chosen: NDArray[np.bool_], blocks: Blocks) -> tuple[Words, Places]:
    """The different ones of the chosen hashes, rising, and the first place of each."""
    count = int(chosen.sum())
    known, first = blocks.array("u8", count), blocks.array("i8", count)
    end = 0
    for places in parts(looks, chosen):
        own, at = np.unique(looks[places], return_index=True)
        known[end : end + len(own)], first[end : end + len(own)] = own, places[at]
        end += len(own)
    return known[:end], first[:end]


def _merged(known: Words, more: Words, blocks: Blocks) -> Words:
    """Two rising lists of different words as one."""
    places = np.searchsorted(known, more)
    inside = places < len(known)
    inside[inside] = known[places[inside]] == more[inside]
    new, places = more[~inside], places[~inside]
    both = blocks.array("u8", len(known) + len(new))
    is_new = np.zeros(len(both), bool)
    is_new[places + np.arange(len(new))] = True
    both[is_new], both[~is_new] = new, known
    return both


def _equal(words: Words, chosen: NDArray[np.bool_], others: Words) -> list[tuple[int, int]]:
    """Chosen places whose word is among ``others``, and the first place of it there; in order."""
    known, first = np.unique(others, return_index=True)
    found: list[tuple[int, int]] = []
    for places in parts(words, chosen) if len(known) else ():
        own = words[places]
        at = np.searchsorted(known, own).clip(max=len(known) - 1)
        hits = np.flatnonzero(known[at] == own)
        found += zip(places[hits].tolist(), first[at[hits]].tolist(), strict=True)
    return sorted(found)
