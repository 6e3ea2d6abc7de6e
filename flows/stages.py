"""One Prefect task per DVC stage: a process that runs ``dvc repro --single-item NAME``."""

import logging
import os
import re
import threading
import time

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from albef.io import write_atomic
from albef.report.wording import format_duration
from albef.run_record import recall
from flows.artifacts import Progress
from flows.graph import FAILED, Node
from flows.process import Child
from flows.values import layout

log = logging.getLogger("albef")
RETRIED = {"ingest": (10.0, 60.0)}
"""Seconds before each further try, by stage module: only what fetches may fail by chance."""
BY_CHANCE = f"exited with {os.EX_IOERR}"
"""What DVC says of a stage that lost a connection or a disk: it may succeed another time."""
UNCHANGED = "Nothing that it depends on changed."
TAKEN = "Taken from DVC's cache."
_DVC = re.compile(
    r"Running stage |Stage '|> |(Generating|Updating) lock|Data and pipelines are|Use `dvc push`"
    r"|To (track|enable)|\t|ERROR: |WARNING: Process .* had been killed"
)
"""How DVC's own lines start, which say nothing of what a stage does."""
_LOST = re.compile(r"No such file or directory: '(.+?)'")
"""What DVC says where a product that a stage reads was never made."""
_children: set[Child] = set()
_ending = threading.Event()
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)


def task_of(node: Node, *, fresh: bool, force: bool, pull: bool) -> "Task[[], State]":
    """The Prefect task of a stage, ``fresh`` where it and all above it are known to be up to date;
    with ``pull``, its products are looked for in the remote first."""
    delays = RETRIED.get(node.name.partition("@")[0], ())

    def run() -> State:
        return run_stage(node.name, fresh=fresh, force=force, pull=pull and not force)

    run.__doc__ = f"`dvc repro --single-item {node.name}`"
    return Task(
        run,
        name=node.name,
        task_run_name=node.name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(delays),
        retry_delay_seconds=list(delays) or None,
        retry_condition_fn=_worth_trying_again,
    )


def _worth_trying_again(_task: object, _run: TaskRun, state: State) -> bool:
    is_retried = not _ending.is_set() and BY_CHANCE in (state.message or "")
    if is_retried:
        log.info("%s, to be tried again", state.message)
    return is_retried


def run_stage(name: str, *, fresh: bool = False, force: bool = False, pull: bool = False) -> State:
    """Run a stage as a process, see :func:`task_of`.

    The state is ``Completed``, by name ``Cached`` if products were at hand, or ``Failed``; of a
    stage that ran, the message is its own sentence.
    """
    if fresh:
        return Completed(name="Cached", message=UNCHANGED)
    logger, progress = get_run_logger(), Progress(name)
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        logger.info(text)
        progress.line(text)
        if not _DVC.match(text):
            log.info("%s: %s", name, text.removeprefix(f"{name}: "))

    with _slots:
        if _ending.is_set():
            return Failed(message="The run was ended before its turn.")
        options = ["--force"] if force else []
        log.info("%s: starts", name)
        began = time.monotonic()
        child = Child(
            "--wait-for-lock", "repro", "--single-item", *options, name, pull=name if pull else ""
        )
        _children.add(child)
        try:
            code = child.follow(line)
        finally:
            _children.discard(child)
    duration = format_duration(time.monotonic() - began)
    failure = FAILED / name
    if code == 0:
        failure.unlink(missing_ok=True)
        state = outcome(name, lines)
        if state.message == TAKEN:  # what lies there tells of other products
            recall(layout().record(name))
        log.info("%s: %s, %s", name, "cached" if state.name == "Cached" else "done", duration)
        return state
    log.info("%s: %s after %s", name, "ended" if child.stopped else "failed", duration)
    if child.stopped:
        return Failed(message=f"{name} was ended with its run.")
    write_atomic(failure, sentence(name, lines))
    return Failed(message=sentence(name, lines))


def outcome(name: str, lines: list[str]) -> State:
    """The state of a stage that DVC brought up to date, from DVC's lines."""
    if any("didn't change, skipping" in text for text in lines):
        return Completed(name="Cached", message=UNCHANGED)
    if any("is cached - skipping run" in text for text in lines):
        return Completed(name="Cached", message=TAKEN)
    messages = [text for text in lines if not _DVC.match(text)]
    return Completed(message=messages[-1].removeprefix(f"{name}: ") if messages else "Ran.")


def sentence(name: str, lines: list[str]) -> str:
    """What to tell of a failure: the stage's own sentence, else the last line that is not DVC's."""
    sentences = [text for text in lines if text.startswith(f"{name}: ")]
    sentences = sentences or [text for text in lines if not _DVC.match(text)]
    errors = [text.removeprefix("ERROR: ") for text in lines if text.startswith("ERROR: ")]
    code = re.search(r"exited with -?\d+", " ".join(errors))
    if not sentences and (lost := _LOST.search(" ".join(errors))):
        return (
            f"{name}: it reads {os.path.relpath(lost[1])}, which is not there: run the stage that "
            "makes it first, or leave --only out"
        )
    text = (sentences[-1:] or errors or ["dvc failed without a word"])[0].removeprefix(f"{name}: ")
    return f"{name}: {text}" + (f" ({code.group()})" if code else "")


def stop_all() -> None:
    """End every stage that runs now; later ones do not start."""
    _ending.set()
    threads = [threading.Thread(target=child.stop) for child in list(_children)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def let_start() -> None:
    """A new flow run in this process: stages may start again."""
    _ending.clear()
