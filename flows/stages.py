"""One Prefect task per DVC stage: a process that runs ``dvc repro --single-item NAME``."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from albef.io import write_atomic
from albef.report.wording import format_duration
from albef.run_record import discard_foreign
from flows.graph import FAILED, Node
from flows.process import Child
from flows.values import layout

log = logging.getLogger("albef")
_CRASHES = {128 + it: it.name for it in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)}
_PATIENCE_S = 2.0  # longest wait for the start of a stage that may never start
_children: set[Child] = set()
_stopping = threading.Event()


class Slots:
    """Slots for running stages, one per CPU core.

    A stage also starts without a free slot if more stages depend on it than on any running one:
    what the rest of the run waits for must not wait for what only the report reads.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: list[int] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, dependents: int) -> Iterator[None]:
        """Hold a slot for a stage that so many stages depend on."""
        with self._changed:
            self._changed.wait_for(lambda: self._may_start(dependents))
            self._running.append(dependents)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(dependents)
                self._changed.notify_all()

    def _may_start(self, dependents: int) -> bool:
        return len(self._running) < self._count or dependents > max(self._running)


_slots = Slots(os.cpu_count() or 1)


class Start:
    """The start of a stage, after the stages in ``before`` that become ready at the same time.

    Without this, the order in which they ask for a slot would be random.
    """

    def __init__(self, dependents: int, before: Sequence["Start"]) -> None:
        self.dependents, self._before, self._started = dependents, before, threading.Event()

    @contextlib.contextmanager
    def hold_slot(self) -> Iterator[None]:
        """Hold a slot for the stage."""
        for other in self._before:
            other._started.wait(_PATIENCE_S)
        with _slots.hold(self.dependents):
            self._started.set()
            yield

    def skip(self) -> None:
        """Let the others start, since the stage has nothing to do."""
        self._started.set()


def task_of(node: Node, start: Start, *, fresh: bool, force: bool, pull: bool) -> "Task[[], State]":
    """Return the Prefect task of a stage.

    Args:
        node: the stage.
        start: its start.
        fresh: whether it and all stages above it are up to date, so that nothing runs.
        force: run even if nothing changed.
        pull: look for its artifacts in the remote first, unless forced.
    """

    def run() -> State:
        if fresh:
            start.skip()
            return Completed(name="Cached", message="Nothing that it depends on changed.")
        with start.hold_slot():
            return run_stage(node.name, force=force, pull=pull and not force)

    run.__doc__ = f"`dvc repro --single-item {node.name}`"
    return Task(
        run, name=node.name, task_run_name=node.name, cache_policy=NO_CACHE, persist_result=False
    )


def run_stage(name: str, *, force: bool, pull: bool) -> State:
    """Run a stage as a process and return its state; see :func:`task_of`.

    The name of the state is ``Cached`` if the artifacts were available. Its message is the last one
    of the stage.
    """
    if _stopping.is_set():
        return Failed(message="The run was stopped before this stage.")
    logger, lines = get_run_logger(), list[str]()

    def line(text: str) -> None:
        lines.append(text)
        logger.info(text)
        log.info("%s: %s", name, text.removeprefix(f"{name}: "))

    log.info("%s: starts", name)
    began, record = time.monotonic(), layout().record(name)
    before = _mtime_ns(record)
    child = Child.reproducing([name], alone=True, force=force, pull=pull)
    _children.add(child)
    try:
        code = child.follow(line)
    finally:
        _children.discard(child)
    duration = format_duration(time.monotonic() - began)
    failure = FAILED / name
    if code == 0:
        failure.unlink(missing_ok=True)
        if _mtime_ns(record) != before:
            log.info("%s: done, %s", name, duration)
            return Completed(message=lines[-1].removeprefix(f"{name}: ") if lines else "Ran.")
        discard_foreign(record)
        log.info("%s: cached, %s", name, duration)
        return Completed(name="Cached", message="DVC's cache had its artifacts.")
    if child.stopped:
        log.info("%s: stopped after %s", name, duration)
        return Failed(message=f"{name} was stopped with its run.")
    log.info("%s: failed after %s", name, duration)
    write_atomic(failure, message := failure_message(name, lines, code))
    return Failed(message=message)


def _mtime_ns(record: Path) -> int:
    """Return when a run record was written, in ns. Each run of a stage writes a new one."""
    return record.stat().st_mtime_ns if record.exists() else 0


def failure_message(name: str, lines: list[str], code: int) -> str:
    """Return the error message of a failed stage: its own last message, else its last line."""
    own = [text for text in lines if text.startswith(f"{name}: ")] or lines or ["no output"]
    if code in _CRASHES:
        own = [f"its process was ended by {_CRASHES[code]}, as happens if memory is short"]
    return f"{name}: {own[-1].removeprefix(f'{name}: ')} (exit code {code})"


def stop_all() -> None:
    """Stop every running stage and start no other."""
    _stopping.set()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Child.stop, tuple(_children)))


def allow_starts() -> None:
    """Let stages start again, for a new flow run in this process."""
    _stopping.clear()
