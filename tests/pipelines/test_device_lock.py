"""Slots of the devices of a machine, which all stages of a user wait for."""

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pipelines.device_lock import device_slot


def test_a_slot_of_the_cpu_is_a_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    caplog.set_level("INFO", "albef")
    order: list[str] = []

    def both() -> None:
        with device_slot("cpu", 2):
            order.append("two")

    with device_slot("cpu", 1), device_slot("cuda:0"):
        with device_slot("cpu", 1):  # as there is another core
            thread = threading.Thread(target=both)
            thread.start()
            while f"waiting for cpu: process {os.getpid()} uses it" not in caplog.text:
                time.sleep(0.01)
            order.append("one")
        thread.join(30)  # two of three are free
        with device_slot("cpu", 2):
            pass
    assert order == ["one", "two"]
    with device_slot("cpu", 9):  # more than there are is all of them
        assert len(list(tmp_path.rglob("cpu-[0-9].slot"))) == 3


def test_a_slot_follows_no_link_of_another_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The temporary folder is everybody's, and the names in it are known."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / f"albef-{os.getuid()}"
    with device_slot("cpu", 1):
        assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "cuda-0.slot").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"), device_slot("cuda:0"):
        pass
    assert victim.read_text() == "precious"

    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="belongs to another user"), device_slot("cpu"):
        pass
