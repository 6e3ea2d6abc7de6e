"""Where a study is kept: a journal in scratch, or a database that several machines share."""

import fcntl
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DATABASE = "ALBEF_SEARCH_STORAGE"
"""Environment variable with the address of a database, ``postgresql://user:secret@host/name``."""
HEARTBEAT_S, GRACE_S = 30, 300
"""Seconds between two signs of life of a trial, and without one before it is tried again."""
log = logging.getLogger("albef")


class StudyError(ValueError):
    """A study that cannot be used; its text is the sentence to show."""


class KernelLock:
    """A file lock that the kernel frees when its process dies, as a link beside the file is not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        """Free it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def held(self) -> bool:
        """Whether a living process has it."""
        with self._path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def journal_storage(path: Path) -> BaseStorage:
    """The storage of a journal file, which is made where there is none."""
    lock = KernelLock(path.with_name(path.name + ".lock"))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def read_journal(path: Path, name: str, identity: Mapping[str, str]) -> optuna.Study:
    """The study in a journal file, whose half-written last line is cut off.

    Raises:
        StudyError: the file is corrupt, or holds the study of another run or space.
    """
    anew = f"delete {path.parent} to start this search anew"
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        log.warning("%s ends in the middle of a line, which is cut off", path)
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            raise StudyError(
                f"{path}: line {number} is no entry of a journal; cut the file off before it to "
                f"keep the trials up to there, or {anew}"
            ) from None
    try:
        storage = journal_storage(path)
        found = {storage.get_study_name_from_id(s._study_id) for s in storage.get_all_studies()}
        if name not in found:
            told = f"the study {', '.join(sorted(found))}" if found else "no study"
            raise StudyError(f"{path} holds {told}, not {name}; {anew}")
        study = optuna.load_study(study_name=name, storage=storage)
        _identify(study, identity, where=str(path), remedy=anew)
        study.get_trials(deepcopy=False)
    except StudyError:
        raise
    except Exception as error:  # each kind of wrong entry raises another
        raise StudyError(
            f"{path} is no journal of a study ({type(error).__name__}: {error}); {anew}"
        ) from None
    return study


def database_study(
    url: str,
    name: str,
    identity: Mapping[str, str],
    again: Callable[[optuna.Study, FrozenTrial], None],
) -> tuple[optuna.Study, RDBStorage]:
    """The study of that name in a database, made by whoever comes first, and its storage.

    Args:
        url: of the database.
        name: of the study.
        identity: whose it is.
        again: called with a trial that has given no sign of life for :data:`GRACE_S`.

    Raises:
        StudyError: the database cannot be used, or the study is another run's.
    """
    from sqlalchemy.exc import SQLAlchemyError

    address = _address(url)
    shown = address.render_as_string(hide_password=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = RDBStorage(
                address.render_as_string(hide_password=False),
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=again,
            )
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name)
        remedy = f"`optuna delete-study --study-name {name}` removes it"
        _identify(study, identity, where=f"the study {name} at {shown}", remedy=remedy)
    except ImportError as error:
        raise StudyError(
            f"{DATABASE} {shown} needs a driver that is not installed ({error}): "
            "pip install 'albef-pipeline[postgresql]'"
        ) from None
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise lost(error) from None
    return study, storage


def _address(url: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        address = make_url(url)
    except SQLAlchemyError:
        raise StudyError(
            f"{DATABASE} is no address of a database, as postgresql://user:secret@host/name"
        ) from None
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+pg8000")
    return address


def lost(error: Exception) -> StudyError:
    """What is said of a database that does not answer; without its password."""
    address = _address(os.environ[DATABASE])
    cause = error.__cause__ or error
    text = " ".join(str(cause).split("\n")[:1]).replace(str(address.password or "\0"), "***")
    return StudyError(
        f"the database {address.render_as_string(hide_password=True)} of {DATABASE} cannot be "
        f"used ({text}); mend that and run it again, which goes on"
    )


def identify(study: optuna.Study, identity: Mapping[str, str]) -> None:
    """Write down whose study it is."""
    study.set_user_attr("of", dict(identity))


def _identify(study: optuna.Study, identity: Mapping[str, str], where: str, remedy: str) -> None:
    told: Any = study.user_attrs.get("of")
    if told is None and not study.get_trials(deepcopy=False):  # made this moment
        identify(study, identity)
    elif told != dict(identity):
        other = told if isinstance(told, Mapping) else {}
        differs = [key for key in identity if other.get(key) != identity[key]]
        said = ", ".join(f"{key} {other.get(key, 'unknown')}" for key in differs)
        raise StudyError(
            f"{where} is a study of another {' and '.join(differs)} ({said}, not "
            f"{', '.join(identity[key] for key in differs)}); {remedy}"
        )
