"""What `make bench-serve` measures, with the values that are shipped."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_load_of_the_built_in_size_is_answered() -> None:
    options = "--size built-in --part graphs --part load --rounds 1 --seconds 0.5"
    command = [sys.executable, "-m", "benchmarks.serving", *options.split()]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"^\| (image|text, 12 tokens) \| [18] \|", ended.stdout, re.M)) == 4
    for kind in ("texts", "images"):
        assert re.search(
            rf"^\| {kind} \| one client \| [\d.]+ \| [\d. |]+ \| 0 \|", ended.stdout, re.M
        )
