"""Stages in a failing system: each is forked from a process that has imported them all."""

import json
import os
import resource
import runpy
import shutil
import signal
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

STAGES = (
    "heldout", "ingest", "validate", "pretrain", "search", "finetune", "evaluate", "export",
    "report",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
MONTHS = 40 * 24 * 3600
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


class Shim:
    """A library (shim.c) for processes whose writes below ``root`` fail and whose clock jumps."""

    def __init__(self, folder: Path) -> None:
        self.root, self._state = folder / "root", folder / "state"
        self.root.mkdir()
        library, source = folder / "shim.so", Path(__file__).with_name("shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        self._state.touch()
        self.fail()
        self.environment = {
            "CHAOS_STATE": str(self._state),
            "CHAOS_ROOT": str(self.root),
            "LD_PRELOAD": str(library),
        }

    def fail(self, full_at: int = 0, jump_s: int = 0) -> None:
        """Fail from now on.

        Args:
            full_at: the write from which on the disk is full; 0: it never is.
            jump_s: seconds by which the clock is ahead or behind.
        """
        with self._state.open("r+b") as file:  # processes have it in memory
            file.write(struct.pack("4q", 0, full_at, jump_s, 0))

    @property
    def writes(self) -> int:
        """The number of writes since then."""
        return int(struct.unpack("4q", self._state.read_bytes())[0])


class Ended(NamedTuple):
    """How a stage ended: its exit code, and what it printed."""

    code: int
    said: str


class Stages:
    """A process that runs stages in folders below the root of its shim."""

    def __init__(self, folder: Path) -> None:
        self.shim, self._log = Shim(folder), folder / "log"
        temporary = self.shim.root / "tmp"
        temporary.mkdir()
        more = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, **self.shim.environment, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.communicate()

    def run(self, folder: Path, stage: str, memory: int = 0) -> Ended:
        """Run ``NAME KEY`` in a folder, with so many bytes of address space to add; 0: no limit."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "log": str(self._log), "stage": stage, "memory": memory}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ended(code, self._log.read_text())


def _run(folder: str, log: str, stage: str, memory: int) -> None:
    name, *key = stage.split()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [name, *key]
    del sys.modules[f"pipelines.{name}"]  # or else there is a warning that it is imported
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.alarm(100)  # A thread that has no memory to begin may be waited for forever.
    runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)
    raise SystemExit


def _main() -> None:
    for name in STAGES:
        import_module(f"pipelines.{name}")
    for name in ("tasks.retrieval", "export.folder", "runtime.model"):
        import_module(f"albef.{name}")
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        if not (child := os.fork()):
            _run(**order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _main()
