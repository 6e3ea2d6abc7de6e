"""What was kept is found again, and what was torn off is not."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.refusal import Reason
from albef.ingest.download.journal import Chunk, DamagedDownload, Outcome
from tests.ingest.download.test_client import limits


def fill(folder: Path) -> None:
    with Chunk(folder, "part") as chunk:
        chunk.add(Outcome("0", 1, 9), b"first")
        chunk.add(Outcome("1", 3, 9, Reason.TIMED_OUT, "no answer", True))
        chunk.add(Outcome("2", 1, 9), b"")
        chunk.add(Outcome("3", 1, 9), b"last")
        chunk.sync()


def journal(folder: Path) -> Path:
    return folder / "pa" / "part.jsonl"


def test_outcomes_and_bodies_come_back(tmp_path: Path) -> None:
    fill(tmp_path)
    with Chunk(tmp_path, "part") as chunk:
        whole = [own for own in chunk.outcomes.values() if not own.reason]
        bodies = {own.address: chunk.body(own) for own in whole}
        assert bodies == {"0": b"first", "2": b"", "3": b"last"}
        assert chunk.outcomes["1"] == Outcome("1", 3, 9, "timed_out", "no answer", True)


@settings(max_examples=60)
@given(st.integers(0, 900))
def test_a_torn_journal_loses_what_was_torn_off_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    fill(folder)
    text = journal(folder).read_bytes()
    journal(folder).write_bytes(text[:cut])
    with Chunk(folder, "part") as chunk:
        assert len(chunk.outcomes) == text[:cut].count(b"\n")
        chunk.add(Outcome("7", 1, 9), b"new")
    with Chunk(folder, "part") as chunk:
        assert chunk.body(chunk.outcomes["7"]) == b"new"
        assert len(chunk.outcomes) == text[:cut].count(b"\n") + 1


def test_what_a_disk_did_not_take_is_given_to_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) == 1:
            raise OSError(errno.EIO, "the disk is away for a moment")

    monkeypatch.setattr(os, "fsync", fsync)
    with Chunk(tmp_path, "part") as chunk:
        chunk.add(Outcome("0", 1, 9), b"first")
        with pytest.raises(OSError, match="away"):
            chunk.sync()
        chunk.sync()
        chunk.sync()
    assert len(synced) == 3, "the first failed, then bodies and journal, then nothing was new"


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_rubbish_in_a_journal_counts_as_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    with Chunk(folder, "part"):
        pass
    journal(folder).write_bytes(b"\n".join([*lines, b'{"row": 1}', b"[]", b"{}", b""]))
    with Chunk(folder, "part") as chunk:
        assert not chunk.outcomes


def test_a_body_that_is_not_all_there_is_downloaded_again(tmp_path: Path) -> None:
    fill(tmp_path)
    bodies = tmp_path / "pa" / "part.bodies"
    bodies.write_bytes(bodies.read_bytes()[:7])
    with Chunk(tmp_path, "part") as chunk:
        assert set(chunk.outcomes) == set("012")
    bodies.write_bytes(b"xxxxx")
    with (
        Chunk(tmp_path, "part") as chunk,
        pytest.raises(DamagedDownload, match=r"bodies is damaged: remove the folder"),
    ):
        chunk.body(chunk.outcomes["0"])


def test_when_an_outcome_holds_under_other_limits() -> None:
    passing = Outcome("1", 3, 9, Reason.TIMED_OUT, "", True)
    assert passing.holds(limits(attempts=3))
    assert not passing.holds(limits(attempts=4))
    assert Outcome("1", 1, 9, Reason.NOT_FOUND, "").holds(limits(attempts=20))
    large = Outcome("1", 1, 2**20, Reason.TOO_MANY_BYTES, "")
    assert large.holds(limits(max_mb=1))
    assert not large.holds(limits(max_mb=2))
    private = Outcome("1", 1, 9, Reason.PRIVATE_ADDRESS, "")
    assert private.holds(limits(allow_loopback=False))
    assert not private.holds(limits(allow_loopback=True))
