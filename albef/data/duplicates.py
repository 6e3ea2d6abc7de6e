"""Which prepared rows are dropped because another one is there: equal keys, repeated pictures, and
training pictures that an evaluation split shows too.

Rows are compared by arrays with a few words for each; their texts are read where they are needed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.blocks import Blocks
from albef.data.near import Places, Words, near_pairs
from albef.data.refusal import Reason

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
    """The prints of all blocks."""
    parts = [_of_block(blocks, block) for block in range(len(blocks))]
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Prints(*columns) if parts else Prints(*_of_none())


def _of_block(blocks: Blocks, block: int) -> tuple[Any, ...]:
    table = blocks.table(block).combine_chunks()
    counts = table["digests"].combine_chunks().value_lengths().fill_null(0).to_numpy()
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


def _of_none() -> tuple[Any, ...]:
    return tuple(np.empty(0, kind) for kind in ("i8", "i8", "u8", "u8", bool, bool))


def _words(digests: Any) -> Words:
    """The first eight bytes of binary values of 16."""
    return np.frombuffer(b"".join(digests.to_pylist()), np.uint64).reshape(-1, 2)[:, 0]


def repeated_keys(blocks: Blocks) -> Iterator[Twin]:
    """The rows whose key an earlier row has."""
    numbers, words = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for block in range(len(blocks)):
        keys = blocks.table(block)["key"]
        kept = np.flatnonzero(keys.is_valid().to_numpy())
        numbers.append(blocks.starts[block] + kept)
        words.append(np.array([_word(key) for key in keys.drop_null().to_pylist()], np.uint64))
    places = np.concatenate(numbers)
    for run in _runs(np.concatenate(words)):
        first: dict[str, int] = {}
        for row in places[run].tolist():
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
    trained = np.flatnonzero(own.train)
    matched = {
        int(own.row[i]): (int(others[k]), 0)
        for i, k in _equal(own.digest, trained, digests)
        if _digests(blocks, int(own.row[i])) & _digests(blocks, int(others[k]), heldout)
    }
    if distance is not None:
        for i, k, bits in _alike(own.look, trained, looks, distance):
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
    at = np.flatnonzero(left)
    for run in _runs(own.digest[at]):
        first, *later = at[run].tolist()
        for i in later:
            row, other = int(own.row[i]), int(own.row[first])
            if own.image_id[i] == own.image_id[first]:
                continue
            if _digests(blocks, row) == _digests(blocks, other):
                twins[i] = Twin(row, Reason.DUPLICATE, other, 0)
    if distance is not None:
        at = at[~np.isin(at, np.fromiter(twins, np.int64))]
        for i, first, bits in _followers(own.look[at], distance):
            i, first = int(at[i]), int(at[first])
            if own.image_id[i] != own.image_id[first]:
                row, other = int(own.row[i]), int(own.row[first])
                twins[i] = Twin(row, Reason.NEAR_DUPLICATE, other, bits)
    yield from sorted(twins.values())


def _digests(blocks: Blocks, row: int, heldout: pa.Table | None = None) -> set[bytes]:
    """The digests of a row's pictures, or of the held-out one that a number below 0 names."""
    if row < 0 and heldout is not None:
        return {heldout["digest"][-1 - row].as_py()}
    return set(blocks.at(row, "digests"))


def _followers(looks: Words, distance: int) -> Iterator[tuple[int, int, int]]:
    """Places of hashes with the place of the first of their group, and the bits between them.

    In order of place, each hash joins the first group whose first one is near, or begins one.
    """
    known, first, which = np.unique(looks, return_index=True, return_inverse=True)
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
    alone = np.ones(len(known), bool)
    alone[list(leader)] = False
    follows = ~alone[which] | (first[which] != np.arange(len(looks)))
    for i in np.flatnonzero(follows).tolist():
        head, bits = leader.get(int(which[i]), (int(which[i]), 0))
        yield i, int(first[head]), bits


def _alike(
    looks: Words, at: Places, others: Words, distance: int
) -> Iterator[tuple[int, int, int]]:
    """Places out of ``at`` whose hash is near one of ``others``: itself, that one, the bits."""
    known, which = np.unique(np.concatenate([looks[at], others]), return_inverse=True)
    mine, theirs = which[: len(at)], which[len(at) :]
    held = np.full(len(known), -1)
    held[theirs[::-1]] = np.arange(len(others))[::-1]  # the first of equal ones
    best = {int(place): (0, int(held[place])) for place in np.flatnonzero(held >= 0)}
    for a, b, bits in zip(*map(np.ndarray.tolist, near_pairs(known, distance)), strict=True):
        for place, other in ((a, b), (b, a)):
            if held[other] >= 0:
                here = bits, int(held[other])
                best[place] = min(best.get(place, here), here)
    near = np.zeros(len(known), bool)
    near[list(best)] = True
    for i in np.flatnonzero(near[mine]).tolist():
        bits, other = best[int(mine[i])]
        yield int(at[i]), other, bits


def _equal(words: Words, at: Places, others: Words) -> Iterator[tuple[int, int]]:
    """Each place out of ``at`` whose word is among ``others``, and the first place of it there."""
    known, first = np.unique(others, return_index=True)
    places = np.searchsorted(known, words[at]).clip(max=max(len(known) - 1, 0))
    hits = np.flatnonzero(known[places] == words[at]) if len(known) else ()
    return ((int(at[i]), int(first[places[i]])) for i in hits)


def _runs(words: Words) -> Iterator[Places]:
    """Places of equal words, in rising order, where there are several."""
    order = np.argsort(words, kind="stable")
    cuts = np.flatnonzero(np.diff(words[order])) + 1
    edges = np.concatenate([[0], cuts, [len(words)]])
    for k in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[k] : edges[k + 1]]
