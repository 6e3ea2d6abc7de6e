"""Processes that make batches."""

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from albef.loading.workers import ahead

SIZES = [0, 1, 2**16]


def test_tensors_are_handed_over_where_the_temporary_folder_has_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("deep/" * 20)
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    # The last one is passed in shared memory.
    made = list(ahead(lambda i: {"of": [torch.full((3, size), i) for size in SIZES]}, range(8), 2))
    for number, batch in enumerate(made):
        assert [t.shape[1] for t in batch["of"]] == SIZES
        assert all(t.eq(number).all() for t in batch["of"])


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time, torch\n"
        "from albef.loading.workers import ahead\n"
        "made = ahead(lambda i: [torch.full((9,), i)] * 20_000, range(80), 2)\n"
        "next(made), print('ready', flush=True), time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=20)[1]


def test_a_program_that_fails_while_workers_make_batches_ends() -> None:
    script = (
        "from albef.loading.workers import ahead\n"
        "made = ahead(str, range(80), 2)\n"
        "raise RuntimeError(next(made))\n"
    )
    failed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.endswith("RuntimeError: 0\n")
