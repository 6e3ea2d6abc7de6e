"""``albef status``: which stages are fresh, stale (and why) or running; the last results."""

import time
from collections.abc import Iterator

import psutil

from albef.layout import Layout
from flows import graph, results, run_lock, values


def report() -> str:
    """The whole answer."""
    layout = values.layout()
    rows = [row for node in graph.read().values() for row in _rows(node, layout)]
    parts = [results.table(rows, ("stage", "state"))]
    if (process := run_lock.holder()) is not None:
        parts.append(f"a run is at work: process {process}, {_age(process)}")
    return "\n\n".join([*parts, results.summary(layout)])


def _rows(node: graph.Node, layout: Layout) -> Iterator[tuple[str, str]]:
    if node.running is not None:
        yield node.name, f"running: process {node.running}, {_age(node.running)}"
    elif not node.needed:
        yield node.name, "not needed: no run starts from it"
    elif node.stale:
        reasons = [f"stale: {reason}" for reason in node.reasons[:1]]
        reasons += [f"       {reason}" for reason in node.reasons[1:]]
        if node.waits and not reasons:
            reasons = [f"waits for {', '.join(node.waits)}"]
        yield from ((node.name if not place else "", text) for place, text in enumerate(reasons))
    else:
        started = results.record(layout, node.name).get("started")
        yield node.name, "fresh" + (f", made {started}" if started else "")


def _age(process: int) -> str:
    try:
        return f"for {results.duration(time.time() - psutil.Process(process).create_time())}"
    except psutil.NoSuchProcess:
        return "just ended"
