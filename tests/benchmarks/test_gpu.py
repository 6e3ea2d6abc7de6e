"""`make gpu`: its parts on a CPU, at a tiny size, and what it says without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def ran(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = ran()
    assert (done.returncode, done.stdout) == (2, "")
    assert "no GPU" in done.stderr
    assert "--device cpu" in done.stderr


def test_the_parts_end_with_a_table() -> None:
    done = ran("--device", "cpu", "--size", "tiny", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    _, table = done.stdout.split("|---|---|\n")  # The exporter prints before it.
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines()]
    assert rows == [
        "tests; a training twice, and resumed",
        "memory of a step, 4 images",
        "step, 4 images",
        "step, compiled, 4 images",
        "timm's ViT, 4 images",
        "features, beside the CPU's",
        "float16 export",
        "server",
    ]


def test_what_is_off_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    done = ran("--device", "cpu", "--size", "tiny", "--part", "tests")
    assert done.returncode == 1
    assert "off: " in done.stderr
    assert "| tests; a training twice, and resumed |" in done.stdout
