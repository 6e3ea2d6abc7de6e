"""One run at a time in a clone, and the truth about runs that died.

Prefect cannot know that a killed flow is gone, and shows it as running for good. The kernel does
know: it frees this lock with the process, so the next run may say of the one before that it died.
"""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import psutil

from albef.io import holder_of, lock

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

PATH = Path(".dvc/tmp/albef-run.lock")
FLOW_RUN = Path(".dvc/tmp/albef-flow-run")
"""The flow run that is at work, by its id; a flow that is killed leaves it."""
INHERITED = "ALBEF_RUN_LOCK"
"""Environment variable of a child that has inherited its parent's lock."""
log = logging.getLogger("albef")
_lock_file: IO[str] | None = None
_shared = bool(os.environ.pop(INHERITED, None))


class Busy(ValueError):
    """Another run is at work in this clone."""


@contextlib.contextmanager
def acquire() -> Iterator[None]:
    """Hold the lock of this clone; within a holder, or its child that inherited it, it is shared.

    Raises:
        Busy: another process holds it; the error names it.
    """
    global _lock_file
    if _shared or _lock_file is not None:
        yield
        return
    with locked(PATH, "a run is", "; `albef status` shows it") as _lock_file:
        _heal()
        try:
            yield
        finally:
            _lock_file = None


@contextlib.contextmanager
def locked(path: Path, subject: str, hint: str = "") -> Iterator[IO[str]]:
    """Hold a lock file, which is not waited for.

    Raises:
        Busy: another process holds it; ``subject`` says who is at work.
    """

    def refuse(holder: str) -> None:
        raise Busy(f"{subject} at work here already (process {holder}){hint}")

    with lock(path, refuse) as file:
        yield file


def descriptor() -> int:
    """Of the held lock's file: for a child that holds it too, and has :data:`INHERITED` set."""
    assert _lock_file is not None, "acquire() comes first"
    return _lock_file.fileno()


def holder() -> int | None:
    """The process that runs the pipeline in this clone now, or None."""
    number = holder_of(PATH) or ""
    return int(number) if number.isdigit() else None


def _heal() -> None:
    """Mend the list of paths in use that a DVC killed in mid-write leaves, and DVC then refuses.

    A number of a dead process may also be some other process's by now, in a container above all.
    """
    from dvc.lock import LockError, make_lock

    path = Path(".dvc/tmp/rwlock")
    if not path.exists():
        return
    with contextlib.suppress(LockError), make_lock(f"{path}.lock", tmp_dir=str(path.parent)):
        try:
            used = json.loads(path.read_text())
            readers = itertools.chain(*used.get("read", {}).values())
            infos = [*used.get("write", {}).values(), *readers]
        except (ValueError, AttributeError):
            infos = [{"pid": 0}]
        if infos and not any(map(_is_dvc, infos)):
            path.unlink()


def _is_dvc(info: Any) -> bool:
    with contextlib.suppress(psutil.Error):
        line = " ".join(psutil.Process(info["pid"]).cmdline())
        return "dvc" in line or "flows" in line
    return False


@contextlib.contextmanager
def flow_run(run: str | None) -> Iterator[None]:
    """Note which flow run this process works on, and settle the one before."""
    if FLOW_RUN.exists():
        _settle(UUID(FLOW_RUN.read_text()))
    if run:
        FLOW_RUN.write_text(run)
    yield
    FLOW_RUN.unlink(missing_ok=True)  # not reached by a kill


def _settle(run: UUID) -> None:
    """Mark a flow run that died, and its tasks, as crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    state: State[Any] = Crashed(message="Its process died; found by the next run.")
    with get_client(sync_client=True) as client:
        try:
            dead_run = client.read_flow_run(run)
        except ObjectNotFound:  # it ran against another server
            return
        if dead_run.state is None or dead_run.state.is_final():
            return
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        for task in client.read_task_runs(flow_run_filter=of_run):
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        client.set_flow_run_state(run, state, force=True)
        log.info("flow run %s died without a word; marked as crashed", dead_run.name)
