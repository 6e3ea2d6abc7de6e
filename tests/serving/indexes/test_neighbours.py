from pathlib import Path

import numpy as np
import pytest

from albef.runtime.model import Floats
from albef.serving.indexes.neighbours import Approximate, Exact


def vectors(count: int, width: int = 16, seed: int = 0) -> Floats:
    feats = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    return feats


def test_exact_is_the_sorted_product() -> None:
    feats, query = vectors(100), vectors(1, seed=1)[0]
    exact = Exact(16)
    for start in range(0, 100, 7):
        numbers = np.arange(start, min(start + 7, 100)) + 5
        exact.add(numbers, feats[start : start + 7])
    order = np.argsort(-(feats @ query), kind="stable")
    numbers, similarities = exact.search(query, 10)
    assert numbers.tolist() == (order[:10] + 5).tolist()
    np.testing.assert_allclose(similarities, (feats @ query)[order[:10]], rtol=1e-5)
    assert len(exact.search(query, 1000)[0]) == 100
    exact.remove(order[:3] + 5)
    assert exact.search(query, 7)[0].tolist() == (order[3:10] + 5).tolist()
    assert len(exact) == 97


def test_equal_ones_stand_in_their_order_and_nothing_gives_nothing() -> None:
    exact = Exact(16)
    assert exact.search(vectors(1)[0], 3)[0].tolist() == []
    exact.add(np.arange(1, 6), np.repeat(vectors(1), 5, axis=0))
    assert exact.search(vectors(1)[0], 5)[0].tolist() == [1, 2, 3, 4, 5]


def test_faiss_finds_nearly_all_and_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    centres = vectors(40)
    feats = centres.repeat(100, axis=0) + 0.1 * vectors(4000, seed=2)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    cells = Approximate.train(feats)
    cells.add(np.arange(4000) + 1, feats)
    cells.save(tmp_path / "cells")
    for index in (cells, Approximate.load(tmp_path / "cells")):
        assert len(index) == 4000
        hits = 0
        for query in feats[::400]:
            right = set((np.argsort(-(feats @ query))[:10] + 1).tolist())
            numbers, similarities = index.search(query, 10)
            hits += len(right & set(numbers.tolist()))
            np.testing.assert_allclose(similarities, feats[numbers - 1] @ query, atol=1e-5)
        assert hits > 80
        index.remove(np.array([1, 2]))
        assert not {1, 2} & set(index.search(feats[0], 50)[0].tolist())
