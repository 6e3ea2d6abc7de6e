"""Slots of the devices of a machine, which all stages of a user wait for."""

import os
import subprocess
import sys
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


_FAULTS = """
import resource, sys, types
import torch
from pipelines.device_lock import device_of

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [torch.ones(2**20) for _ in range(16)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

runtime = types.SimpleNamespace(deterministic=False, threads=1, device="cpu")
torch.set_num_threads(1)
if sys.argv[1] == "stage":
    device_of(types.SimpleNamespace(runtime=runtime))
faults()
print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_the_memory_of_freed_tensors_is_not_cleared_again() -> None:
    plain, stage = (
        int(subprocess.check_output([sys.executable, "-c", _FAULTS, name]))
        for name in ("", "stage")
    )
    assert 20 * stage < plain
