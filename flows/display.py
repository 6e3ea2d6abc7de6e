"""Lines of a run in a terminal: running stages, the time left, and results as they arrive."""

import contextlib
import json
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from albef.io import printable
from flows import results, values
from flows.estimates import time_left
from flows.graph import Node

_STEP = re.compile(r"((?:step|trial) \d+ of \d+)(?:.*, (\d+) s left)?")
_END = re.compile(r"(done|cached|failed|stopped)(?:,| after) ([\d.]+ (?:s|min|h))")
# DVC warns of the folder of curves if a run has no epochs.
_WARNING = re.compile(r"(warning|error): (?!'.*' is empty)", re.IGNORECASE)
_KEPT = 40
"""Number of last lines of a stage that are printed if it fails."""
_SIDE = 24
"""Number of pixels of an image's side, of which two share a character."""


@contextlib.contextmanager
def displayed(
    nodes: Mapping[str, Node], seconds: Mapping[str, float | None]
) -> Iterator[int | None]:
    """Display a run if standard error is a terminal; see :class:`Display`.

    Yields:
        The descriptor that takes the flow's output; None leaves the output as it is.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    source, target = os.pipe()

    def read() -> None:
        with open(source, errors="replace") as output:
            for line in output:
                text = printable(line.rstrip())
                try:
                    display.line(text)
                except Exception:  # The flow blocks if nobody reads its output.
                    display.console.print(Text(text))

    reader = threading.Thread(target=read, daemon=True)
    with Display(nodes, seconds) as display:
        reader.start()
        try:
            yield target
        finally:
            os.close(target)
            reader.join()


class Display(Progress):
    """Lines of the running stages and of the whole run, drawn from the flow's output.

    Bars show time. Ended stages, warnings and errors are printed above.

    Args:
        nodes: the graph.
        seconds: estimated seconds of the stages that are to run; None is unknown.
    """

    def __init__(self, nodes: Mapping[str, Node], seconds: Mapping[str, float | None]) -> None:
        self._nodes, self._seconds, self._stages = nodes, dict(seconds), len(seconds)
        self._running: dict[str, Task] = {}
        rest = Column(ratio=1, no_wrap=True)
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(16),
            TextColumn("{task.fields[step]}{task.fields[text]}", markup=False, table_column=rest),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True, highlight=False),
            expand=True,
            transient=True,
        )
        self._whole = self._added("whole run", None)

    def _added(self, name: str, seconds: float | None) -> Task:
        lines = deque[str](maxlen=_KEPT)
        self.add_task(name, total=None, end=seconds, left="", step="", text="", lines=lines)
        return self.tasks[-1]

    def line(self, line: str) -> None:
        """Show a line with its stage, or print it if that stage is not running."""
        name, _, text = line.partition(": ")
        stage = self._running.get(name)
        if text == "starts" and name in self._nodes:
            self._running[name] = self._added(name, self._seconds.get(name))
        elif stage is None or _WARNING.search(text):
            self.console.print(Text(line))
        elif match := _END.fullmatch(text):
            self._end(name, *match.groups())
        elif match := _STEP.search(text):
            stage.fields["step"] = f"{match[1]}  "
            if match[2] and not match.start():  # Otherwise, it is the time left of a trial.
                stage.fields["end"] = (stage.elapsed or 0.0) + float(match[2])
        else:
            stage.fields["text"] = text
        if stage:
            stage.fields["lines"].append(line)

    def _end(self, name: str, state: str, duration: str) -> None:
        """Print a stage that ended with its results, or with its last lines if it failed."""
        stage, failed = self._running.pop(name), state == "failed"
        self._seconds.pop(name, None)
        self.remove_task(stage.id)
        if failed:
            self.console.print(Text("\n".join(stage.fields["lines"])))
            stage.fields["text"] = ""  # It is the last of these lines.
        module, _, run = name.partition("@")
        metrics, result = values.layout().metrics(run), stage.fields["text"]
        is_evaluated = module == "evaluate" and state in ("done", "cached") and metrics.exists()
        if is_evaluated:
            rows = results.rows(run, json.loads(metrics.read_text()))
            labels = {label: value for _, label, value, *_ in rows}
            first = sorted(labels, key=lambda label: " " in label)  # Those of the main split.
            result = ", ".join(f"{label} {labels[label]}" for label in first)
        start = f"{name:{max(map(len, self._nodes))}}  {state} {duration:>8}  "
        self.console.print(Text(start, "red" * failed) + Text(result, "bold" * (not failed)))
        has_colors = self.console.color_system is not None and not self.console.no_color
        if is_evaluated and has_colors and self.console.width >= 3 * _SIDE + 4:
            with contextlib.suppress(OSError, ValueError):  # The run may not search images.
                self._print_found(values.layout().predictions(run))

    def _print_found(self, predictions: Path) -> None:
        # Slow imports that most of a run does not need.
        import pyarrow.parquet as pq

        from albef.report.thumbnails import SplitRecords

        table = pq.read_table(predictions, filters=[("query", "=", "t2i")])
        (row,) = table.slice(0, 1).to_pylist()
        folder = values.layout().data(json.loads(table.schema.metadata[b"albef"])["dataset"])
        grid = Table.grid(padding=(0, 2))
        with contextlib.closing(SplitRecords(folder, row["split"])) as records:
            keys = row["top"][:3]
            grid.add_row(*(_half_blocks(records.image(key)) for key in keys))
            grid.add_row(*(Text(min(records.captions(key))) for key in keys))
        self.console.print(Text(f"images found for '{row['caption']}':"), grid)

    def get_renderables(self) -> Iterator[Table]:
        """Yield the lines of the running stages and of the whole run."""
        if not self.tasks:  # The base class asks before the first task.
            return
        stages = [*self._running.values()]
        left = {stage.description: _update(stage, stage.fields["end"]) for stage in stages}
        left |= {name: end for name, end in [*self._seconds.items()] if name not in left}
        total = time_left(self._nodes, {name: known or 0.0 for name, known in left.items()})
        _update(self._whole, (self._whole.elapsed or 0.0) + total)
        bound = ">" if None in left.values() else ""
        self._whole.fields["left"] = f"{bound}{self._whole.fields['left']} left" if total else ""
        self._whole.fields["text"] = (
            f"{self._stages - len(self._seconds)} of {self._stages} stages ended"
        )
        yield self.make_tasks_table([*stages, self._whole])


def _update(line: Task, end: float | None) -> float | None:
    """Set the bar and the text of the time left, given the expected end; return that time."""
    passed = line.elapsed or 0.0
    left = None if end is None or end <= passed else end - passed
    line.total, line.completed = left and passed + left, passed
    line.fields["left"] = "?" if left is None else "{}:{:02}".format(*divmod(round(left), 60))
    return left


def _half_blocks(image: Image.Image | None) -> Text:
    """Return an image as characters whose upper and lower halves are a pixel each."""
    small = (image or Image.new("RGB", (1, 1))).convert("RGB").resize((_SIDE, _SIDE))
    pixels = np.asarray(small).tolist()
    color = "rgb({},{},{}) on rgb({},{},{})".format
    return Text("\n").join(
        Text.assemble(*(("▀", color(*top, *low)) for top, low in zip(*rows, strict=True)))
        for rows in zip(pixels[::2], pixels[1::2], strict=True)
    )
