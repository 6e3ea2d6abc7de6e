"""Karpathy's splits, as they are published."""

import json
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason
from tests.data import toy
from tests.ingest.sources.reading import Rows, bad, good, read

SENTENCES = [{"raw": "One.", "tokens": ["one"]}, {"raw": "Two."}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "val2014/c.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(toy.picture(len(name)))


def rows(held: Any, *splits: str) -> Rows:
    Path("split.json").write_text(json.dumps(held))
    return read("karpathy", file="split.json", images=".", splits=list(splits))


def test_karpathys_splits() -> None:
    images = [
        {"filename": "a.jpg", "split": "train", "sentences": SENTENCES},
        {"filename": "c.jpg", "filepath": "val2014", "split": "restval", "sentences": SENTENCES},
        {"filename": "gone.jpg", "split": "val", "sentences": SENTENCES},
        {"filename": "b.jpg", "split": "test", "sentences": SENTENCES},
    ]
    found = good(rows({"images": images, "dataset": "coco"}, "train", "test"))
    assert [record.split for record in found] == ["train", "train", "test"]
    assert found[1].image == Path("val2014/c.jpg").read_bytes()
    assert found[0].captions == ("One.", "Two.")
    assert len({record.image_id for record in found}) == 3


def test_bad_rows_are_rejected() -> None:
    row = {"filename": "a.jpg", "split": "test", "sentences": SENTENCES}
    changes = ({"sentences": []}, {"sentences": [{"raw": ""}]}, {"filename": "../a.jpg"}, {})
    held = [row | {"split": "dev"}, 7, *(row | changed for changed in changes)]
    *refused, last = rows({"images": held}, "test")
    assert good([last])
    assert [(one.line, one.key, one.reason) for one in bad(refused)] == [
        (1, "a.jpg", Reason.MISSING_FIELD),
        (2, "", Reason.MALFORMED_ROW),
        (3, "a.jpg", Reason.MISSING_FIELD),
        (4, "a.jpg", Reason.MISSING_FIELD),
        (5, "../a.jpg", Reason.OUTSIDE_ROOT),
    ]
    assert bad(refused)[0].detail.startswith("split.json: 'split' is \"dev\"; it must be train")
    with pytest.raises(ParamsError, match=r"split.json must contain .* list 'images'"):
        rows([1], "test")
