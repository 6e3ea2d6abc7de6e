"""The plan of a preset: in processes of their own, since the backend of the fake GPU stays."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.slow


def test_the_estimate_is_within_15_percent_of_a_real_step() -> None:
    # Freed memory is returned at once, and threads hold none.
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pipelines.real_memory"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, check=True
    )
    real, estimated = json.loads(done.stdout)
    assert estimated > 2**29, "a size at which what the process needs beside it is small"
    assert real == pytest.approx(estimated, rel=0.15)


def test_the_guide_shows_what_the_command_prints() -> None:
    page = (ROOT / "docs/how-to/plan-a-training.md").read_text()
    (arguments,) = re.findall(r"albef (plan single-gpu .*)", page)
    command = [sys.executable, "-m", "albef.cli", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert f" {line}\n" in page


def test_a_plan_is_of_the_state_the_gradients_and_the_activations() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    steps = "tests/pipelines/plan_steps.py"
    done = subprocess.run([*command, steps], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
