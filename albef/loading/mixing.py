"""Sources of a data set shown more or less often in training; nothing is stored twice.

A weight is the passes over a source in an epoch. The passes of a source follow each other without
a gap, each in an order of its own: with 0.5 every record is shown in one of two epochs, with 2.5
two or three times in each.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Places = NDArray[np.int64]


class Mixture:
    """The records that an epoch shows, by weights of their sources.

    Args:
        sources: name of each record's source.
        weights: by source; a source that is left out has 1, one with 0 is not shown.
        seed: of the orders of the passes, with the source's name.

    Raises:
        ValueError: a weight of a source that there is not.
    """

    def __init__(self, sources: pa.StringArray, weights: Mapping[str, float], seed: int) -> None:
        encoded = sources.dictionary_encode()  # no Python text for each of millions of records
        codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        known = sorted(names)
        for name in weights:
            if name not in known:
                raise ValueError(f"source_weights names {name}; the sources are {', '.join(known)}")
        self._seed = seed
        self._parts: list[tuple[int, Places, int]] = []
        for name in known:
            places = np.flatnonzero(codes == names.index(name))
            if weight := weights.get(name, 1.0):
                shown = max(1, round(weight * len(places)))
                self._parts.append((zlib.crc32(name.encode()), places, shown))

    def __len__(self) -> int:
        return sum(shown for _, _, shown in self._parts)

    def epoch(self, epoch: int) -> Places:
        """Places of the records that an epoch shows, not yet in its order."""
        return np.concatenate([self._shown(epoch, *part) for part in self._parts])

    def _shown(self, epoch: int, name: int, places: Places, shown: int) -> Places:
        start, size = epoch * shown, len(places)
        passes = range(start // size, (start + shown - 1) // size + 1)
        orders = [np.random.default_rng([self._seed, name, p]).permutation(places) for p in passes]
        offset = start - passes[0] * size
        return np.concatenate(orders)[offset : offset + shown]
