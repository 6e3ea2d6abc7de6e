"""Run records that are kept until their products come back."""

import json
from pathlib import Path

import pytest

from albef import run_record as records
from albef.io import file_digest

RECORD = Path("runs/finetune@vqa.json")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    RECORD.parent.mkdir()


def _made(text: str, seconds: int = 1) -> str:
    """A product and its record, as a stage writes them."""
    Path("weights").write_text(text)
    told = {"made": {"weights": file_digest(Path("weights"))}, "seconds": seconds}
    RECORD.write_text(json.dumps(told))
    records.keep(RECORD)
    return RECORD.read_text()


def test_the_record_of_what_is_at_hand_comes_back() -> None:
    first = _made("one")
    second = _made("two")
    assert records.recall(RECORD)
    assert RECORD.read_text() == second
    Path("weights").write_text("one")
    assert records.recall(RECORD)
    assert RECORD.read_text() == first


def test_of_two_that_made_the_same_the_newer_one() -> None:
    _made("one", 1)
    newer = _made("one", 2)
    _made("two")
    Path("weights").write_text("one")
    assert records.recall(RECORD)
    assert RECORD.read_text() == newer


def test_what_nobody_made_here_leaves_the_record_as_it_is() -> None:
    before = _made("one")
    Path("weights").write_text("from elsewhere")
    assert not records.recall(RECORD)
    assert RECORD.read_text() == before
    Path("weights").unlink()
    assert not records.recall(RECORD)


def test_a_bounded_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST", 2)
    for text in ("one", "two", "three"):
        _made(text)
    assert len(list((records.KEPT / RECORD.stem).iterdir())) == 2
    Path("weights").write_text("one")
    assert not records.recall(RECORD)
