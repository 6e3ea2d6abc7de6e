"""Which records each micro-batch of a training holds: a function of seed and epoch alone."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.shards import Shards
from albef.loading.mixing import Mixture, Places

_ORDER = 0  # keeps the generators of different things apart
_TRIES = 1000


class Order:
    """The records of each micro-batch, by their places in the split.

    Args:
        shards: the split.
        size: B, records of a micro-batch.
        per_epoch: micro-batches of an epoch.
        seed: of the order.
        pool: micro-batches whose records are sorted by length; 0 leaves them in random order.
        mixture: which records an epoch shows; None shows each once.
        window: shards within which records are shuffled; None is the whole split.
    """

    def __init__(
        self,
        shards: Shards,
        size: int,
        per_epoch: int,
        seed: int,
        pool: int,
        mixture: Mixture | None,
        window: int | None,
    ) -> None:
        self.per_epoch = per_epoch
        self._shards = shards
        self._size = size
        self._seed = seed
        self._pool = pool
        self._mixture = mixture
        self._window = window
        self._epoch: tuple[int, Places] | None = None
        self._lengths: NDArray[np.int64] | None = None

    def chosen(self, number: int) -> Places:
        """The records of a micro-batch."""
        epoch, inside = divmod(number, self.per_epoch)
        return self._of(epoch)[inside * self._size : (inside + 1) * self._size]

    def shards_of(self, number: int) -> list[str]:
        """Names of the shards that they are in."""
        names: list[str] = self._shards.shard_names.take(self.chosen(number)).unique().to_pylist()
        return names

    @property
    def per_window(self) -> int:
        """Micro-batches of a window, or of an epoch."""
        if not self._window:
            return self.per_epoch
        shards = len(self._shards.shard_names.unique())
        return max(1, min(self.per_epoch, self.per_epoch * self._window // shards))

    def spares(self, number: int, position: int) -> Iterator[int]:
        """Records that may stand for the one at a position of a micro-batch, the first one first.

        They are those from the same position of the next micro-batch of the epoch on: of the same
        window but at its end, and not of the same micro-batch.
        """
        epoch, inside = divmod(number, self.per_epoch)
        order = self._of(epoch)
        first = (inside + 1) * self._size + position
        for place in range(first, first + min(len(order), _TRIES)):
            yield int(order[place % len(order)])

    def _of(self, epoch: int) -> Places:
        """All records of an epoch."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, _ORDER, epoch])
            shown = len(self._shards) if self._mixture is None else self._mixture.epoch(epoch)
            order = rng.permutation(shown)
            if self._window:
                shard = self._shards.shard_names.dictionary_encode()
                windows = rng.permutation(len(shard.dictionary)) // self._window
                in_windows = windows[shard.indices.to_numpy()[order]]
                order = order[np.argsort(in_windows, kind="stable")]
            order = order[: self.per_epoch * self._size]
            self._epoch = epoch, self._by_length(order, rng) if self._pool else order
        return self._epoch[1]

    def _by_length(self, order: Places, rng: np.random.Generator) -> Places:
        """The records, sorted by length within each pool of micro-batches, and those shuffled."""
        words = self._words()
        parts = []
        for start in range(0, len(order), self._pool * self._size):
            pool = order[start : start + self._pool * self._size]
            micros = pool[np.argsort(words[pool], kind="stable")].reshape(-1, self._size)
            parts.append(micros[rng.permutation(len(micros))])
        return np.concatenate(parts).ravel()

    def _words(self) -> NDArray[np.int64]:
        """The most words that a caption of each record has."""
        if self._lengths is None:
            captions = self._shards.captions
            blanks = pc.count_substring(pc.list_flatten(captions), " ").to_numpy()
            starts = np.concatenate([[0], np.cumsum(pc.list_value_length(captions).to_numpy())])
            self._lengths = np.maximum.reduceat(np.append(blanks, 0), starts[:-1])
        return self._lengths
