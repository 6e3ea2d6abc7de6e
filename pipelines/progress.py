"""How far a training is: a bar on a terminal, plain lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from albef.training.loop import Progress
from pipelines.stage import WORKER

log = logging.getLogger("albef")
LINE_EVERY = 10.0
"""Seconds between two plain lines."""


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """What the train loop calls after each step."""
    if sys.stderr.isatty() and WORKER not in os.environ:  # several have no bar in common
        with _bar(label) as show:
            yield show
    else:
        yield _lines(label)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, values="", rate="")

        def show(step: int, total: int, values: Mapping[str, float]) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} steps/s" if speed else ""
            bar.update(task, completed=step, total=total, values=_shown(values), rate=rate)

        yield show


def _lines(label: str) -> Progress:
    first: tuple[float, int] | None = None
    last = 0.0

    def show(step: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is None:
            first = now, step
        if step < total and now - last < LINE_EVERY:
            return
        last = now
        rate = (step - first[1]) / (now - first[0]) if step > first[1] else 0.0
        left = f", {(total - step) / rate:.0f} s left" if rate else ""
        log.info(
            "%s: step %d of %d, %.2f steps/s%s  %s", label, step, total, rate, left, _shown(values)
        )

    return show


def _shown(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
