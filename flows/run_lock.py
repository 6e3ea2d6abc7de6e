"""One run at a time in a clone, and the truth about runs that died.

Prefect cannot know that a killed flow is gone, and shows it as running for good. The kernel does
know: it frees this lock with the process, so the next run may say of the one before that it died.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import psutil

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

PATH = Path(".dvc/tmp/albef-run.lease")
log = logging.getLogger("albef")
HANDED = "ALBEF_LEASE"
"""Environment variable with the descriptor of a lease that the parent handed on."""
_held: IO[str] | None = None


class Busy(RuntimeError):
    """Another run is at work in this clone."""


@contextlib.contextmanager
def hold() -> Iterator[None]:
    """Hold the lease of this clone; within a holder, or one that it handed it to, it is shared.

    Raises:
        Busy: another process holds it; the error names it.
    """
    global _held
    if _held is not None:
        yield
        return
    PATH.parent.mkdir(parents=True, exist_ok=True)
    handed = os.environ.pop(HANDED, None)
    with os.fdopen(int(handed), "a+") if handed else PATH.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(file).get("process", "?")
            raise Busy(
                f"a run is at work here already (process {holder}); `albef status` shows it"
            ) from None
        _held = file
        _heal()
        _write(file, {**_read(file), "process": os.getpid()})
        try:
            yield
        finally:
            _held = None


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file that its holder's death frees.

    Args:
        path: of the file.
        what: who is at work, for the error.

    Raises:
        Busy: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(file).get("process", "?")
            raise Busy(f"{what} at work here already (process {holder})") from None
        _write(file, {"process": os.getpid()})
        yield


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
            infos = [
                *used.get("write", {}).values(),
                *itertools.chain(*used.get("read", {}).values()),
            ]
        except (ValueError, AttributeError):
            infos = [{"pid": 0}]
        if infos and not any(_is_dvc(info["pid"]) for info in infos):
            path.unlink()


def _is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in part or "flows" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def hand_on() -> int:
    """The descriptor of the lease, for a child process to hold as well."""
    assert _held is not None, "hold() comes first"
    os.environ[HANDED] = str(_held.fileno())
    return _held.fileno()


def holder() -> int | None:
    """The process that runs the pipeline in this clone now, or None."""
    if not PATH.exists():
        return None
    with PATH.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _read(file).get("process")
            return pid if isinstance(pid, int) else None
    return None


@contextlib.contextmanager
def flow_run(run: UUID | None) -> Iterator[None]:
    """Note in the lease which flow run this process works on, and settle the one before."""
    assert _held is not None, "hold() comes first"
    before = _read(_held).get("flow_run")
    if before is not None:
        _settle(UUID(str(before)))
    _write(_held, {"process": os.getpid(), "flow_run": str(run) if run else None})
    yield
    _write(_held, {"process": os.getpid()})  # not reached by a kill: that leaves the note


def _read(file: IO[str]) -> dict[str, str | int | None]:
    file.seek(0)
    try:
        return dict(json.loads(file.read() or "{}"))
    except ValueError:
        return {}


def _write(file: IO[str], value: dict[str, str | int | None]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(value))
    file.flush()


def _settle(run: UUID) -> None:
    """Mark a flow run that died, and its tasks, as crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    state: State[Any] = Crashed(message="Its process died; found by the next run.")
    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(run)
        except ObjectNotFound:  # it ran against another server
            return
        if found.state is None or found.state.is_final():
            return
        for task in client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        ):
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        client.set_flow_run_state(run, state, force=True)
        log.info("flow run %s died without a word; marked as crashed", found.name)
