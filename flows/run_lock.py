"""Lock that allows one run at a time in a clone, and detection of runs that were killed.

The kernel frees the lock when the process ends, so the next run can tell Prefect that a flow died.
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
"""File with the id of the current flow run. A flow that is killed leaves it behind."""
INHERITED = "ALBEF_RUN_LOCK"
"""Environment variable of a child that has inherited its parent's lock."""
log = logging.getLogger("albef")
_lock_file: IO[str] | None = None
_shared = bool(os.environ.pop(INHERITED, None))


class RunInProgressError(ValueError):
    """Error: another run is in progress in this clone."""


@contextlib.contextmanager
def acquire() -> Iterator[None]:
    """Hold the lock of this clone. A holder, or its child that inherited the lock, shares it.

    Raises:
        RunInProgressError: another process holds the lock. The message contains its id.
    """
    global _lock_file
    if _shared or _lock_file is not None:
        yield
        return
    with locked(PATH, "a run is") as _lock_file:
        _remove_stale_rwlock()
        try:
            yield
        finally:
            _lock_file = None


@contextlib.contextmanager
def locked(path: Path, subject: str) -> Iterator[IO[str]]:
    """Hold a lock file without waiting for it.

    Raises:
        RunInProgressError: another process holds the lock; ``subject`` begins the error message.
    """

    def refuse(holder: str) -> None:
        raise RunInProgressError(
            f"{subject} already in progress in this clone (process {holder}); wait for it, or "
            "stop that process"
        )

    with lock(path, refuse) as file:
        yield file


def descriptor() -> int:
    """Return the descriptor of the held lock's file, for a child with :data:`INHERITED` set."""
    assert _lock_file is not None, "acquire() comes first"
    return _lock_file.fileno()


def holder() -> int | None:
    """Return the id of the process that currently runs the pipeline in this clone, or None."""
    number = holder_of(PATH) or ""
    return int(number) if number.isdigit() else None


def _remove_stale_rwlock() -> None:
    """Remove DVC's list of used paths if it belongs to a killed process, so that DVC can start."""
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
    # Another process may have the id of a dead one by now, especially in a container.
    with contextlib.suppress(psutil.Error):
        line = " ".join(psutil.Process(info["pid"]).cmdline())
        return "dvc" in line or "flows" in line
    return False


@contextlib.contextmanager
def flow_run(run: str | None) -> Iterator[None]:
    """Record the flow run of this process, and mark the previous one as crashed if it died."""
    if FLOW_RUN.exists():
        previous = FLOW_RUN.read_text()
        _mark_crashed(UUID(previous), is_retried=previous == run)
    if run:
        FLOW_RUN.write_text(run)
    yield
    FLOW_RUN.unlink(missing_ok=True)  # A killed process does not get here.


def _mark_crashed(run: UUID, *, is_retried: bool) -> None:
    """Mark the tasks of a flow run that died as crashed, and itself unless it is being retried."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    state: State[Any] = Crashed(message="Its process died; found by the next run.")
    with get_client(sync_client=True) as client:
        try:
            dead_run = client.read_flow_run(run)
        except ObjectNotFound:  # The flow run belongs to another server.
            return
        if dead_run.state is None or dead_run.state.is_final():
            return
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        for task in client.read_task_runs(flow_run_filter=of_run):
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        if not is_retried:
            client.set_flow_run_state(run, state, force=True)
            log.info("flow run %s was killed; it is now marked as crashed", dead_run.name)
