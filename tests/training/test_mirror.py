"""Mirrors of training states: a folder, and a bucket of a real S3 server."""

import errno
import os
import threading
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from albef.training.mirror import Mirror


def state(folder: Path, step: int) -> Path:
    path = folder / f"state-{step}.pt"
    path.write_bytes(bytes([step]) * 1000)
    return path


def refuse(*args: object, **kwargs: object) -> None:
    raise PermissionError(errno.EPERM, "refused")


@pytest.mark.parametrize(("kind", "links"), [("folder", False), ("bucket", True)])
def test_the_newest_states_come_back(
    kind: str,
    links: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = str(tmp_path / "mirror") if kind == "folder" else request.getfixturevalue("bucket").url
    here = tmp_path / "here"
    here.mkdir()
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    mirror = Mirror(url, "pretrain-1")
    for step in range(3):
        path = state(here, step)
        mirror.push(path, "state-*.pt", keep=2)
        path.unlink()  # as pruning may, before the copy is made
        mirror.wait()
    assert not list(here.iterdir())

    other = Mirror(url, "pretrain-1")
    assert other.names("state-*.pt") == ["state-2.pt", "state-1.pt"]
    other.fetch("state-2.pt", here / "got")
    assert (here / "got").read_bytes() == bytes([2]) * 1000
    assert Mirror(url, "pretrain-2").names("state-*.pt") == []
    mirror.push(state(here, 1), "state-*.pt", keep=2)  # a state before one that was damaged
    mirror.wait()
    assert other.names("*") == ["state-1.pt"]
    other.clear()
    other.clear()
    assert Mirror(url, "pretrain-1").names("*") == []


def test_of_what_waits_only_the_newest_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket slower than the training holds two states, not one for each save."""
    mirror = Mirror(str(tmp_path / "mirror"), "x")
    begun, go, copied = threading.Event(), threading.Event(), []
    put = LocalFileSystem.put_file

    def slow(store: LocalFileSystem, path: str, name: str) -> None:
        begun.set()
        go.wait()
        copied.append(name.rpartition("/")[2])
        put(store, path, name)

    monkeypatch.setattr(LocalFileSystem, "put_file", slow)
    for step in range(6):
        mirror.push(state(tmp_path, step), "state-*.pt", keep=2)
        begun.wait()
    mirror.push(tmp_path / "state-0.pt", "state-0*", keep=1)  # of another kind
    waiting = list(tmp_path.glob(".mirror-*"))
    go.set()
    mirror.wait()
    assert len(waiting) == 3
    assert copied == ["state-0.pt", "state-5.pt", "state-0.pt"]
    assert not list(tmp_path.glob(".mirror-*"))


def test_a_mirror_that_fails_is_warned_of_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    mirror = Mirror(str(tmp_path / "file" / "inside"), "x")
    mirror.push(state(tmp_path, 1), "state-*.pt", keep=2)
    mirror.push(tmp_path / "gone", "gone", keep=1)
    mirror.wait()
    for name in ("state-1.pt", "gone"):
        assert f"cannot copy {name} to the mirror" in caplog.text
    assert list(tmp_path.glob(".mirror-*")) == []


def test_a_mirror_that_cannot_be_read_stops_instead_of_starting_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"cannot read the mirror s3://states/x .* to null"):
        Mirror("s3://states", "x").names("state-*.pt")
    monkeypatch.setattr(LocalFileSystem, "ls", refuse)
    with pytest.raises(OSError, match="cannot read"):
        Mirror(str(tmp_path), "x").names("*")


def test_an_address_of_no_known_kind() -> None:
    with pytest.raises(ValueError, match=r"runtime\.mirror: cannot open nothing://a"):
        Mirror("nothing://a", "x")
