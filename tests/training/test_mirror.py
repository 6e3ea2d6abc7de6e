"""Mirrors of training states: a folder, and a bucket of a real S3 server."""

from pathlib import Path

import pytest

from albef.training.mirror import Mirror


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_the_newest_states_come_back(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "mirror") if kind == "folder" else request.getfixturevalue("bucket").url
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    mirror = Mirror(url, "pretrain-1")
    for step in range(3):
        path = here / f"state-{step}.pt"
        path.write_bytes(bytes([step]) * 1000)
        mirror.push(path, "state-*.pt", keep=2)
        path.unlink()  # as pruning may, before the copy is made
    mirror.wait()
    assert not list(here.iterdir())

    other = Mirror(url, "pretrain-1")
    assert other.pull(there, "state-*.pt") == ["state-2.pt", "state-1.pt"]
    assert (there / "state-2.pt").read_bytes() == bytes([2]) * 1000
    assert other.pull(there, "state-*.pt") == []  # what is there is not fetched again
    assert Mirror(url, "pretrain-2").pull(there, "state-*.pt") == []
    other.clear()
    other.clear()
    assert Mirror(url, "pretrain-1").pull(here, "state-*.pt") == []


def test_a_mirror_that_fails_is_warned_of_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    state = tmp_path / "state-1.pt"
    state.touch()
    mirror = Mirror(str(tmp_path / "file" / "inside"), "x")
    mirror.push(state, "state-*.pt", keep=2)
    mirror.wait()
    assert "state-1.pt is not mirrored to" in caplog.text
    assert list(tmp_path.glob(".mirror-*")) == []


def test_a_mirror_that_cannot_be_read_stops_instead_of_starting_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"the mirror s3://states/x cannot be read .* to null"):
        Mirror("s3://states", "x").pull(tmp_path, "state-*.pt")


def test_an_address_of_no_known_kind() -> None:
    with pytest.raises(ValueError, match=r"runtime\.mirror nothing://a cannot be used"):
        Mirror("nothing://a", "x")
