"""Steps on a fake GPU, in a process of its own: its backend would stay for other tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RARE = "encoders or lora or nlvr2 or text_assignment or entailment or grounding"
"""Steps that take long and do little that other steps do not."""


@pytest.mark.parametrize("steps", [f"not ({RARE})", pytest.param(RARE, marks=pytest.mark.slow)])
def test_every_kind_trains_and_exports_on_a_fake_gpu(steps: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", steps]
    path = "tests/tasks/fake_gpu_steps.py"
    ended = subprocess.run([*command, path], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
