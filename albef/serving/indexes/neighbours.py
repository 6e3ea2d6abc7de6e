"""The nearest of many unit vectors: an exact product, or faiss where that takes too long.

Shapes: n vectors, E their width, k results.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from albef.runtime.model import Floats, Ints

Nearest = tuple[Ints, Floats]
"""Numbers (k,) of vectors and their similarities (k,), the most similar first."""
_CELLS = 4  # of faiss, for the root of the number of vectors
_TRAINED_ON = 64  # vectors a cell
_VISITED = 16  # one cell in so many is searched


class Exact:
    """Vectors in the order of their numbers, all of which are compared.

    Args:
        width: E.
    """

    def __init__(self, width: int) -> None:
        self._numbers: Ints = np.empty(0, np.int64)
        self._feats: Floats = np.empty((0, width), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, numbers: Ints, feats: Floats) -> None:
        """Add vectors (n, E); ``numbers`` (n,) go on from the highest."""
        before, self._count = self._count, self._count + len(numbers)
        if self._count > len(self._numbers):  # twice the room: adding one by one stays cheap
            room = max(self._count, 2 * before)
            self._numbers = np.resize(self._numbers[:before], room)
            self._feats, old = np.empty((room, feats.shape[1]), np.float32), self._feats
            self._feats[:before] = old[:before]
        new = slice(before, self._count)
        self._numbers[new], self._feats[new] = numbers, feats

    def remove(self, numbers: Ints) -> None:
        """Take vectors out; numbers (n,) that are not there are no error."""
        kept = ~np.isin(self._numbers[: self._count], numbers)
        if not kept.all():
            self._numbers = self._numbers[: self._count][kept]
            self._feats = self._feats[: self._count][kept]
            self._count = len(self._numbers)

    def copy(self) -> tuple[Ints, Floats]:
        """All numbers (n,) and vectors (n, E)."""
        return self._numbers[: self._count].copy(), self._feats[: self._count].copy()

    def search(self, feat: Floats, k: int) -> Nearest:
        """The ``k`` vectors, or all, with the largest product with ``feat`` (E,)."""
        sims: Floats = self._feats[: self._count] @ feat
        k = min(k, self._count)
        some = np.argpartition(-sims, k - 1)[:k] if k else np.empty(0, np.int64)
        best = some[np.lexsort((some, -sims[some]))]
        return self._numbers[best], sims[best]


class Approximate:
    """Vectors in cells of faiss, of which those nearest to a query are searched.

    Args:
        index: of faiss.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        index.nprobe = max(1, index.nlist // _VISITED)

    @classmethod
    def train(cls, feats: Floats) -> "Approximate":
        """An empty one whose cells fit vectors like ``feats`` (n, E)."""
        import faiss  # half a second, and not everybody's index is that large

        cells = max(1, min(round(_CELLS * len(feats) ** 0.5), len(feats) // 39))
        width = feats.shape[1]
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT
        )
        rows = np.random.default_rng(0).permutation(len(feats))[: _TRAINED_ON * cells]
        index.train(np.ascontiguousarray(feats[rows]))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> "Approximate":
        """What :meth:`save` wrote."""
        import faiss

        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Write a file."""
        import faiss

        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, numbers: Ints, feats: Floats) -> None:
        """See :meth:`Exact.add`."""
        self._index.add_with_ids(np.ascontiguousarray(feats), numbers)

    def remove(self, numbers: Ints) -> None:
        """See :meth:`Exact.remove`."""
        self._index.remove_ids(numbers)

    def search(self, feat: Floats, k: int) -> Nearest:
        """The most similar vectors of the cells that are searched, at most ``k``."""
        sims, numbers = self._index.search(np.ascontiguousarray(feat[None]), k)
        there = numbers[0] >= 0
        return numbers[0][there], sims[0][there]


def has_faiss() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("faiss") is not None
