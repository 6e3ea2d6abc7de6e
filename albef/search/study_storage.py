"""Where a study is kept: a journal in scratch, or a database that several machines share."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from albef.io import lock

DATABASE = "ALBEF_SEARCH_STORAGE"
"""Environment variable with the address of a database, ``postgresql://user:secret@host/name``."""
HEARTBEAT_S, GRACE_S = 30, 300
"""Seconds between two signs of life of a trial, and without one before it is tried again."""
log = logging.getLogger("albef")


class StudyError(ValueError):
    """A study that cannot be used; its text is the sentence to show."""


class TrialLost(Exception):
    """The running trial was given to another machine, since this one seemed dead."""


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Say in one sentence, without the password, why a database cannot be used."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        raise TrialLost from None
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        if DATABASE not in os.environ:
            raise
        address = _address()
        cause = str(error.__cause__ or error).split("\n")[0]
        cause = cause.replace(str(address.password or "\0"), "***")
        raise StudyError(
            f"the database {address.render_as_string(hide_password=True)} of {DATABASE} cannot be "
            f"used ({cause}); mend that and run it again, which goes on"
        ) from None


def _open(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name, made by whoever comes first."""
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )


class _JournalLock:
    """Freed by the kernel when its process dies, as Optuna's own lock, a link, is not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks = contextlib.ExitStack()

    def acquire(self) -> bool:
        self._locks.enter_context(lock(self._path, wait=lambda holder: None))
        return True

    def release(self) -> None:
        self._locks.close()


def journal_study(path: Path, name: str) -> optuna.Study:
    """The study in a journal file, whose half-written last line is cut off."""
    lock_path = path.with_name(f"{path.name}.lock")
    with lock(lock_path, wait=lambda holder: None):
        text = path.read_bytes() if path.exists() else b""
        complete_lines = text[: text.rfind(b"\n") + 1]
        if complete_lines != text:
            log.warning("%s ends in the middle of a line, which is cut off", path)
            os.truncate(path, len(complete_lines))
    try:
        study = _open(
            JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(lock_path))), name
        )
        study.get_trials(deepcopy=False)
    except Exception as error:  # each kind of wrong entry raises another
        raise StudyError(
            f"{path} is no journal of a study ({type(error).__name__}: {error}); "
            f"delete {path.parent} to start this search anew"
        ) from None
    return study


@database_errors()
def database_study(name: str) -> tuple[optuna.Study, RDBStorage]:
    """The study of that name in the database that the environment names, and its storage."""
    address = _address()
    try:
        with unwarned():
            storage = RDBStorage(
                address.render_as_string(hide_password=False),
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=try_again,
            )
    except ImportError as error:
        raise StudyError(
            f"{DATABASE} {address.render_as_string(hide_password=True)} needs a driver that is not "
            f"installed ({error}): pip install '.[postgresql]' in the clone"
        ) from None
    return _open(storage, name), storage


def _address() -> URL:
    try:
        address = make_url(os.environ[DATABASE])
    except SQLAlchemyError:
        raise StudyError(
            f"{DATABASE} is no address of a database, as postgresql://user:secret@host/name"
        ) from None
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+pg8000")
    return address


def try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a trial of a database that was cut off, with its values and what it reported."""
    log.warning("trial %d was cut off; it is tried again", trial.number + 1)
    with unwarned():
        RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


@contextlib.contextmanager
def heartbeat(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Give signs of life of a trial while inside; one that never gave any is not missed."""
    ended = threading.Event()
    storage.record_heartbeat(trial_id)

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                storage.record_heartbeat(trial_id)
            except Exception as error:  # the next call of the study says so, if it stays away
                log.warning("the database of the search does not answer: %s", type(error).__name__)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Without Optuna's warnings that heartbeats are experimental, and not its loop's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield
