"""Order of records: the records of an epoch and of its micro-batches, fixed by seed and epoch."""

import zlib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.shards import Shards

Indices = NDArray[np.int64]

_ORDER = 0  # separates random generators
_TRIES = 1000


class Mixture:
    """Sources of a dataset with weights in training; nothing is stored twice.

    A weight, by default 1, is the number of passes over a source in an epoch. The passes follow
    each other without a gap, each in another order. With 0.5 every record is shown in one of two
    epochs, with 2.5 two or three times in each.

    Raises:
        ValueError: a weight names an unknown source.
    """

    def __init__(self, sources: pa.StringArray, weights: Mapping[str, float], seed: int) -> None:
        encoded = sources.dictionary_encode()  # no Python string per record
        codes, labels = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        names = sorted(labels)
        for name in weights:
            if name not in names:
                raise ValueError(
                    f"source_weights has unknown source {name}; sources: {', '.join(names)}"
                )
        self._seed = seed
        self._parts: list[tuple[int, Indices, int]] = []
        for name in names:
            indices = np.flatnonzero(codes == labels.index(name))
            if weight := weights.get(name, 1.0):
                count = max(1, round(weight * len(indices)))
                self._parts.append((zlib.crc32(name.encode()), indices, count))

    def __len__(self) -> int:
        return sum(count for _, _, count in self._parts)

    def epoch(self, epoch: int) -> Indices:
        """Return the indices of the records of an epoch, not yet in its order."""
        return np.concatenate([self._sample_source(epoch, *part) for part in self._parts])

    def _sample_source(self, epoch: int, name: int, indices: Indices, count: int) -> Indices:
        start, size = epoch * count, len(indices)
        passes = range(start // size, (start + count - 1) // size + 1)
        orders = [np.random.default_rng([self._seed, name, p]).permutation(indices) for p in passes]
        offset = start - passes[0] * size
        return np.concatenate(orders)[offset : offset + count]


class Pool(NamedTuple):
    """Number of batches whose records are regrouped by length or source; 0 keeps them as drawn.

    The micro-batches of a batch are regrouped together, so that processes have equal work.
    """

    batches: int = 0
    by: Literal["length", "source"] = "length"
    micros: int = 1
    """Number of micro-batches of a batch."""


class Sampler:
    """The records of each micro-batch of ``size`` records, by their indices in the split.

    An epoch has ``per_epoch`` micro-batches, of records that the mixture selects; None shows each
    once. Records are shuffled within windows of as many shards; None is the whole split. Those of
    a ``pool`` of batches are then sorted and regrouped.
    """

    def __init__(
        self,
        shards: Shards,
        size: int,
        per_epoch: int,
        seed: int,
        pool: Pool,
        mixture: Mixture | None,
        window: int | None,
    ) -> None:
        self.per_epoch = per_epoch
        self._shards, self._size, self._seed = shards, size, seed
        self._pool, self._mixture, self._window = pool, mixture, window
        self._epoch: tuple[int, NDArray[np.int32]] = -1, np.empty(0, np.int32)
        self._sorted_by = _sort_key(shards, pool) if pool.batches else None

    def chosen(self, number: int) -> Indices:
        """Return the records of a micro-batch."""
        epoch, inside = divmod(number, self.per_epoch)
        order = self._order(epoch)[inside * self._size : (inside + 1) * self._size]
        return order.astype(np.int64)

    def shards_of(self, number: int) -> list[str]:
        """Return the names of the shards that hold a micro-batch."""
        names: list[str] = self._shards.shard_names.take(self.chosen(number)).unique().to_pylist()
        return names

    @property
    def per_window(self) -> int:
        """Number of micro-batches of a window, or of an epoch."""
        if not self._window:
            return self.per_epoch
        shards = len(self._shards.shard_names.unique())
        return max(1, min(self.per_epoch, self.per_epoch * self._window // shards))

    def spares(self, number: int, position: int) -> Iterator[int]:
        """Yield records that may replace the one at a position of a micro-batch, in order.

        They start at the same position of the epoch's next micro-batch, usually in the same window.
        """
        epoch, inside = divmod(number, self.per_epoch)
        order = self._order(epoch)
        first = (inside + 1) * self._size + position
        for candidate in range(first, first + min(len(order), _TRIES)):
            yield int(order[candidate % len(order)])

    def _order(self, epoch: int) -> NDArray[np.int32]:
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffle(epoch).astype(np.int32)
        return self._epoch[1]

    def _shuffle(self, epoch: int) -> Indices:
        rng = np.random.default_rng([self._seed, _ORDER, epoch])
        mixture = self._mixture
        order = rng.permutation(len(self._shards) if mixture is None else mixture.epoch(epoch))
        if self._window:
            shard = self._shards.shard_names.dictionary_encode()
            windows = rng.permutation(len(shard.dictionary)) // self._window
            in_windows = windows[shard.indices.to_numpy()[order]]
            order = order[np.argsort(in_windows, kind="stable")]
        order = order[: self.per_epoch * self._size]
        return order if self._sorted_by is None else self._regroup(order, self._sorted_by, rng)

    def _regroup(self, order: Indices, key: Indices, rng: np.random.Generator) -> Indices:
        """Sort the records by a key within each pool of batches, and shuffle those."""
        parts = []
        batch = self._pool.micros * self._size
        records = self._pool.batches * batch
        for start in range(0, len(order), records):
            pool = order[start : start + records]
            sorted_pool = pool[np.argsort(key[pool], kind="stable")]
            batches = sorted_pool.reshape(-1, batch)
            parts.append(batches[rng.permutation(len(batches))])
        return np.concatenate(parts).ravel()


def _sort_key(shards: Shards, pool: Pool) -> Indices:
    """Return a number per record: its source's, or the words of its longest caption minus one."""
    if pool.by == "source":
        sources: Indices = shards.sources.dictionary_encode().indices.to_numpy()
        return sources
    captions = shards.captions
    blanks = pc.count_substring(pc.list_flatten(captions), " ").to_numpy()
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(captions).to_numpy())])
    longest: Indices = np.maximum.reduceat(np.append(blanks, 0), starts[:-1])
    return longest
