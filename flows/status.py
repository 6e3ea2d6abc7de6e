"""``albef status``: which stages are fresh, stale (and why) or running; the last results."""

import itertools
import re
import time
from collections.abc import Iterable, Iterator

import psutil

from albef import run_record
from albef.layout import Layout
from albef.report.wording import format_duration
from flows import graph, results, run_lock, values

NAMED = 3
"""Files of a folder and values of a section that are named where there are more."""


def report() -> str:
    """The whole answer."""
    layout = values.layout()
    rows = [
        (name if index == 0 else "", text)
        for name, node in graph.read().items()
        for index, text in enumerate(_states(node, layout))
    ]
    parts = [results.table(rows, ("stage", "state"))]
    if (process := run_lock.holder()) is not None:
        parts.append(f"a run is at work: process {process}, {_age(process)}")
    return "\n\n".join([*parts, results.summary(layout)])


def _states(node: graph.Node, layout: Layout) -> Iterator[str]:
    """What is to say of a stage, a line each."""
    if node.running is not None:
        yield f"running: process {node.running}, {_age(node.running)}"
    elif not node.needed:
        yield "not needed: no run starts from it"
    elif node.reasons:
        if node.failure:
            verdict = "refused" if node.failure.endswith("(exited with 2)") else "failed"
            yield f"{verdict}: {node.failure.removeprefix(f'{node.name}: ')}"
        first, *others = condense(node.reasons)
        yield f"stale: {first}"
        yield from (f"       {reason}" for reason in others)
    elif node.waits:
        yield f"waits for {', '.join(node.waits)}"
    else:
        record = run_record.read(layout.record(node.name))
        yield f"fresh, made {record.started}" if record else "fresh"
    if node.comments and not node.reasons:
        yield f"only comments changed: {', '.join(node.comments)}"


def condense(reasons: Iterable[str]) -> Iterator[str]:
    """Reasons why a stage is stale; where many say the same of a folder or section, some."""
    for place, group in itertools.groupby(reasons, lambda reason: _split(reason)[::2]):
        lines = list(group)
        if place[0] and len(lines) > NAMED:
            names = ", ".join(_split(line)[1] for line in lines[:NAMED])
            matter = place[1].replace("is ", "are ")
            yield f"{place[0]}: {names} and {len(lines) - NAMED} more {matter}"
        else:
            yield from lines


def _split(reason: str) -> tuple[str, str, str]:
    """The folder or section of which it speaks, the name in there, and what is the matter."""
    found = re.fullmatch(r"(\S+)/([^\s/]+) (changed|is missing)", reason) or re.fullmatch(
        r"(\w+\.\w+)\.(\S+) (is new): .*", reason
    )
    return (found[1], found[2], found[3]) if found else ("", "", "")


def _age(process: int) -> str:
    try:
        return f"for {format_duration(time.time() - psutil.Process(process).create_time())}"
    except psutil.NoSuchProcess:
        return "just ended"
