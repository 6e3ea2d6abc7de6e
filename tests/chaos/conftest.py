"""The seed of what is drawn: printed, and the same in all processes of a run."""

import os
import time

import pytest

SEED = int(os.environ.setdefault("CHAOS_SEED", str(time.time_ns() % 10**6)))
"""The same one kills after the same saves and commands, not at the same instruction."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"CHAOS_SEED={SEED}")
