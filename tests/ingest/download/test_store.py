"""What was kept is found again, and damage is told."""

from pathlib import Path

import pytest

from albef.data.rejection import Reason
from albef.ingest.download.store import FILE, DownloadStore, Outcome
from tests.ingest.download.test_client import limits


def fill(folder: Path) -> None:
    store = DownloadStore(folder)
    store.add(Outcome("a", 1, 9), b"first")
    store.add(Outcome("b", 3, 9, Reason.TIMED_OUT, "no answer", True))
    store.add(Outcome("c\0", 1, 9), b"")
    store.close()


def test_outcomes_and_images_come_back_and_what_is_not_listed_goes(tmp_path: Path) -> None:
    fill(tmp_path)
    store = DownloadStore(tmp_path)
    known = store.outcomes(["b", "a", "c\0", "d"])
    assert {key: store.body(own) for key, own in known.items() if not own.reason} == {
        "a": b"first", "c\0": b""
    }  # fmt: skip
    assert known["b"] == Outcome("b", 3, 9, "timed_out", "no answer", True)
    store.close()
    store = DownloadStore(tmp_path)
    assert set(store.outcomes(["a"])) == {"a"}
    store.remove_unlisted()
    assert set(store.outcomes(["b", "a", "c\0"])) == {"a"}
    store.close()


def test_damage_is_reported_with_its_remedy(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database" * 999)
    with pytest.raises(
        OSError, match=rf"{FILE} cannot be used: file is not a database.* remove it"
    ):
        DownloadStore(tmp_path)


def test_when_an_outcome_holds_under_other_limits() -> None:
    is_temporary = Outcome("1", 3, 9, Reason.TIMED_OUT, "", True)
    assert is_temporary.is_final(limits(attempts=3))
    assert not is_temporary.is_final(limits(attempts=4))
    assert Outcome("1", 1, 9, Reason.NOT_FOUND, "").is_final(limits(attempts=20))
    large = Outcome("1", 1, 2**20, Reason.TOO_MANY_BYTES, "")
    assert large.is_final(limits(max_mb=1))
    assert not large.is_final(limits(max_mb=2))
    private = Outcome("1", 1, 9, Reason.PRIVATE_ADDRESS, "")
    assert private.is_final(limits(allow_loopback=False))
    assert not private.is_final(limits(allow_loopback=True))
