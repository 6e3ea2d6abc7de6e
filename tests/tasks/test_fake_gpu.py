"""Steps on a fake GPU, in a process of its own: its backend would stay for other tests."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_kind_trains_and_exports_on_a_fake_gpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q"]
    planned = "tests/pipelines/plan_steps.py::test_presets_can_be_planned_without_what_they_read"
    steps = ["tests/tasks/fake_gpu_steps.py", planned]
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", *steps], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
