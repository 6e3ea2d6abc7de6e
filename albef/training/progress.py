"""How far a training is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

log = logging.getLogger("albef")
LINE_EVERY = 10.0
"""Seconds between two plain lines."""


class Progress(Protocol):
    """What shows how far a training is."""

    def __call__(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Called after each step with the last means."""


@contextlib.contextmanager
def progress(label: str, *, bar: bool) -> Iterator[Progress]:
    """What the train loop calls after each step.

    Args:
        label: shown with it.
        bar: whether standard error is ours alone; several processes have no bar in common.
    """
    if not bar or not sys.stderr.isatty():
        yield _lines(label)
        return
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
    with Bar(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=None, values="", rate="")

        def show(step: int, total: int, values: Mapping[str, float]) -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:.1f} steps/s" if speed else ""
            shown.update(task, completed=step, total=total, values=_format(values), rate=rate)

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
            "%s: step %d of %d, %.2f steps/s%s  %s", label, step, total, rate, left, _format(values)
        )

    return show


def _format(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
