import hashlib
from pathlib import Path

import numpy as np

from albef.serving.indexes.index import About
from albef.serving.indexes.store import Store
from tests.serving.indexes.test_index import SPACE, entries, vectors

ZOO = About("zoo", SPACE, "retrieval", 16)


def test_no_name_reaches_the_file_system(tmp_path: Path) -> None:
    store = Store(tmp_path / "indexes")
    assert store.get("../../etc/passwd") is None
    store.create(ZOO).add(SPACE, entries(vectors(2)))
    name = hashlib.sha256(b"zoo").hexdigest()[:32]
    assert [p.name for p in (tmp_path / "indexes").iterdir()] == [f"{name}.sqlite"]
    (tmp_path / "indexes" / "damaged.sqlite").write_text("no database" * 100)
    (tmp_path / "indexes" / "empty.sqlite").touch()
    store.create(ZOO._replace(name="none"))
    assert [index.about.name for index in store.all()] == ["none", "zoo"]
    store.delete("zoo")
    assert store.get("zoo") is None
    store.close()


def test_another_process_may_replace_an_index(tmp_path: Path) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    one.create(ZOO).add(SPACE, entries(vectors(3)))
    index = other.get("zoo")
    assert index is not None
    assert len(index) == 3
    one.delete("zoo")
    assert other.get("zoo") is None
    one.create(ZOO)
    index = other.get("zoo")
    assert index is not None
    assert len(index) == 0
    assert np.array_equal(index.search(SPACE, vectors(1)[0], 3), [])
    one.close()
    other.close()
