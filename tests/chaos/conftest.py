"""The seed of what is drawn: printed, and the same in all processes of a run."""

import os
import time

import pytest
import torch

torch.set_num_threads(1)  # as the processes that are killed: equal bytes, on a busy machine too
SEED = int(os.environ.setdefault("CHAOS_SEED", str(time.time_ns() % 10**6)))
"""The same one kills after the same saves and commands, not at the same instruction."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"CHAOS_SEED={SEED}")
