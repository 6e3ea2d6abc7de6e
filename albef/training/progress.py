"""How far a training is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger("albef")
LINE_EVERY = 10.0
"""Seconds between two plain lines."""


Progress = Callable[[int, int, Mapping[str, float]], None]
"""What shows how far a training is: called after each step, of so many, with the last means."""


@contextlib.contextmanager
def progress(label: str) -> Iterator[Progress]:
    """What the train loop calls after each step."""
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (*Bar.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    with Bar(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None, now="")

        def show(step: int, total: int, values: Mapping[str, float]) -> None:
            now = f"{bars.tasks[0].speed or 0:.1f} steps/s  {_format(values)}"
            bars.update(task, completed=step, total=total, now=now)

        yield show


def _lines(label: str) -> Progress:
    began: tuple[float, int] | None = None
    last = 0.0

    def show(step: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal began, last
        now = time.monotonic()
        began = began or (now, step)
        if step < total and now - last < LINE_EVERY:
            return
        last = now
        rate = (step - began[1]) / (now - began[0]) if step > began[1] else 0.0
        left = f", {(total - step) / rate:.0f} s left" if rate else ""
        where = f"step {step} of {total}, {rate:.2f} steps/s{left}"
        log.info("%s: %s  %s", label, where, _format(values))

    return show


def _format(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())
