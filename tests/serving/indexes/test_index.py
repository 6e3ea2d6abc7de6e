import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from albef.runtime.model import Floats
from albef.serving.indexes.index import About, Entry, Index

SPACE = "model/float32"
ABOUT = About("zoo", SPACE, "retrieval", 16)


def vectors(count: int, width: int = 16, seed: int = 0) -> Floats:
    feats = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    return feats


def entries(feats: Floats, first: int = 0) -> list[Entry]:
    return [
        Entry(f"p{first + i}", f"{feat.tobytes().hex()}", feat, b"small", b"square")
        for i, feat in enumerate(feats)
    ]


def ids(index: Index, feat: Floats, k: int = 3) -> list[str]:
    return [hit.id for hit in index.search(SPACE, feat, k)]


def make(path: Path | None) -> Index:
    return Index(path, ABOUT)


def test_what_is_added_is_there_after_opening_again(tmp_path: Path) -> None:
    feats = vectors(20)
    index = make(tmp_path / "zoo")
    index.add(SPACE, entries(feats))
    before = index.search(SPACE, feats[3], 5)
    index.close()
    again = Index(tmp_path / "zoo")
    assert again.about == ABOUT
    assert again.search(SPACE, feats[3], 5) == before
    assert before[0].id == "p3"
    assert (again.thumbnail("p3"), again.square(before[0].number)) == (b"small", b"square")
    assert again.thumbnail("nobody") is again.square(999) is None
    assert [p.name for p in tmp_path.iterdir()] == ["zoo"]
    again.close()


def test_a_search_is_the_sorted_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albef.serving.indexes.index._PART", 7)  # features read at a time
    feats, query = vectors(100), vectors(1, seed=1)[0]
    index = make(None)
    assert index.search(SPACE, query, 3) == []
    index.add(SPACE, entries(feats))
    order = np.argsort(-(feats @ query), kind="stable")
    hits = index.search(SPACE, query, 10)
    assert [hit.id for hit in hits] == [f"p{i}" for i in order[:10]]
    np.testing.assert_allclose([h.similarity for h in hits], (feats @ query)[order[:10]], 1e-5)
    index.remove([f"p{i}" for i in order[:3]])
    assert ids(index, query, 1000) == [f"p{i}" for i in order[3:]]
    equal = 2 * np.eye(1, 16, dtype=np.float32)
    index.add(SPACE, entries(np.repeat(equal, 5, axis=0), first=100))
    assert ids(index, equal[0], 5) == [f"p{i}" for i in range(100, 105)], "in their order"
    index.close()


def test_equal_images_change_nothing_and_others_replace() -> None:
    feats = vectors(8)
    index = make(None)
    index.add(SPACE, entries(feats[:4]))
    numbers = [hit.number for hit in index.search(SPACE, feats[0], 4)]
    index.add(SPACE, entries(feats[:4]))
    assert [hit.number for hit in index.search(SPACE, feats[0], 4)] == numbers
    index.add(SPACE, entries(feats[7:], first=2))
    assert ids(index, feats[7], 1) == ["p2"]
    assert index.search(SPACE, feats[7], 1)[0].number > max(numbers), "a number is never used again"
    assert len(index) == 4
    assert index.remove(["p0", "nobody"]) == 1
    assert "p0" not in ids(index, feats[0], 4)
    index.close()


def test_several_see_what_one_changes(tmp_path: Path) -> None:
    feats = vectors(10)
    one = make(tmp_path / "zoo")
    other = Index(tmp_path / "zoo")
    one.add(SPACE, entries(feats[:5]))
    assert ids(other, feats[4], 1) == ["p4"]
    other.remove(["p4"])
    other.add(SPACE, entries(feats[5:6], first=9))
    assert "p4" not in ids(one, feats[4], 9)
    assert ids(one, feats[5], 1) == ["p9"]
    one.close()
    other.close()


def test_an_image_has_a_feature_of_each_of_two_models(tmp_path: Path) -> None:
    old, new, third = "old/int8", SPACE, "third/int8"
    feats = vectors(6)
    index = make(tmp_path / "zoo")
    index.add(SPACE, entries(feats[4:], first=98))
    index.remove(["p98", "p99"])
    index.add(SPACE, entries(feats[:4]))  # are 3 to 6
    assert ids(index, feats[2], 1) == ["p2"]
    assert index.without_feature(SPACE, 0, 9) == []
    assert index.without_feature(old, 4, 1) == [(5, b"square")]
    index.put(old, [3, 4, 99], vectors(3, 8))
    index.add(old, [entry._replace(feat=vectors(1, 8, 1)[0]) for entry in entries(feats)[3:5]])
    assert [number for number, _ in index.without_feature(old, 0, 9)] == [5]
    assert [number for number, _ in index.without_feature(new, 0, 9)] == [10], (
        "of two that both have read"
    )
    assert len(index.search(old, vectors(1, 8)[0], 9)) == 4
    assert len(index) == 5
    index.remove(["p0"])
    assert len(index.search(old, vectors(1, 8)[0], 9)) == len(ids(index, feats[0], 9)) == 3
    index.put(third, [4], vectors(1, 4))
    index.keep(third)
    assert len(index.without_feature(old, 0, 9)) == 1, "the one before stays"
    assert len(index.without_feature(SPACE, 0, 9)) == 4
    index.close()


def test_a_change_that_fails_changes_nothing() -> None:
    feats = vectors(4)
    index = make(None)
    index.add(SPACE, entries(feats[:1]))
    bad = entries(feats[3:], first=3)[0]._replace(digest=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        index.add(SPACE, [*entries(feats[1:], first=1), bad])
    assert [len(index), *ids(index, feats[1], 4)] == [1, "p0"]
    index.close()


def test_what_is_not_an_index_is_refused(tmp_path: Path) -> None:
    for damage, reason in (
        ("UPDATE about SET format = 99", "it has format 99, this version reads 2"),
        ("UPDATE about SET name = NULL", "describes itself as"),
        ("DROP TABLE removed", "no such table: removed"),
    ):
        make(path := tmp_path / damage).close()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute(damage)
        with pytest.raises(ValueError, match=reason):
            Index(path)
    for content in (b"", b"no database" * 100):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ValueError, match="is not an image index"):
            Index(tmp_path / "other")
