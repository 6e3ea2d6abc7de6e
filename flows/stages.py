"""One Prefect task per DVC stage: a process that runs ``dvc repro --single-item NAME``."""

import logging
import signal
import threading
import time
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
from flows.schedule import Schedule
from flows.values import layout

log = logging.getLogger("albef")
_CRASHES = {128 + it: it.name for it in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)}
_children: set[Child] = set()
_stopping = threading.Event()


def task_of(
    node: Node, schedule: Schedule, *, fresh: bool, force: bool, pull: bool
) -> "Task[[], State]":
    """Return the Prefect task of a stage.

    Args:
        node: the stage.
        schedule: order of the stages.
        fresh: whether it and all stages above it are up to date, so that nothing runs.
        force: run even if nothing changed.
        pull: look for its artifacts in the remote first, unless forced.
    """

    def run() -> State:
        if fresh:
            schedule.end(node.name)
            return Completed(name="Cached", message="Nothing that it depends on changed.")
        schedule.start(node.name)
        try:
            return run_stage(node.name, force=force, pull=pull and not force)
        finally:
            schedule.end(node.name)

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
