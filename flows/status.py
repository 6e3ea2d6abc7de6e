"""``albef status``: which stages are fresh, stale (and why) or running; the last results."""

import time
from collections.abc import Iterator, Sequence

import psutil

from albef import run_record
from albef.layout import Layout
from albef.report.wording import format_duration
from flows import graph, results, run_lock, values

MAX_REASONS = 6
"""Maximum number of listed reasons."""


def report() -> str:
    """Return the text that ``albef status`` prints."""
    layout, nodes = values.layout(), graph.read()
    rows = [
        (name if index == 0 else "", text)
        for name, node in nodes.items()
        for index, text in enumerate(_states(node, layout))
    ]
    parts = [results.table(rows, ("stage", "state"))]
    unrecorded = [name for name, node in nodes.items() if graph.UNRECORDED in node.reasons]
    if unrecorded:
        parts.append(
            f"{graph.LOCK} may be cut off: it has no entry for {', '.join(unrecorded)}; to restore "
            f"it, run `git checkout {graph.LOCK}`"
        )
    if (process := run_lock.holder()) is not None:
        parts.append(f"a run is in progress: process {process}, {_running_time(process)}")
    return "\n\n".join([*parts, results.summary(layout, nodes)])


def _states(node: graph.Node, layout: Layout) -> Iterator[str]:
    if node.running is not None:
        yield f"running: process {node.running}, {_running_time(node.running)}"
    elif not node.needed:
        yield "not needed: no run starts from it"
    elif node.reasons:
        if node.failure:
            yield f"failed: {node.failure.removeprefix(f'{node.name}: ')}"
        first, *others = condense(node.reasons)
        yield f"stale: {first}"
        yield from (f"       {reason}" for reason in others)
    elif node.waits:
        yield f"waits for {', '.join(node.waits)}"
    else:
        record = run_record.read(layout.record(node.name))
        yield f"fresh, ran {record.started}" if record else "fresh"
    if node.harmless and not node.reasons:
        yield f"changed without effect: {', '.join(node.harmless)}"


def condense(reasons: Sequence[str]) -> Iterator[str]:
    """Yield the first :data:`MAX_REASONS` reasons why a stage is stale."""
    yield from reasons[:MAX_REASONS]
    if len(reasons) > MAX_REASONS:
        yield f"and {len(reasons) - MAX_REASONS} more"


def _running_time(process: int) -> str:
    try:
        return f"for {format_duration(time.time() - psutil.Process(process).create_time())}"
    except psutil.NoSuchProcess:
        return "which has just ended"
