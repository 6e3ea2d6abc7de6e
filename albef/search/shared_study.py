"""Studies that several processes work on: of one machine in a journal, of many in a database."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range
from albef.search.samplers import SearchConfig
from albef.search.study import Asked, LoneStudy, Study, TrialLost
from albef.search.study_storage import (
    DATABASE,
    HEARTBEAT_S,
    KernelLock,
    StudyError,
    database_study,
    identify,
    journal_storage,
    lost,
    read_journal,
)

SHARED = "shared"
log = logging.getLogger("albef")


def open_study(
    journal: Path,
    name: str,
    identity: Mapping[str, str],
    settings: SearchConfig,
    space: Mapping[str, Range],
    *,
    seed: int,
    shared: bool,
) -> Study:
    """The study of a search, gone on with where there is one.

    Args:
        journal: where it is kept, unless the environment names a database.
        name: of the study.
        identity: what it is a study of; another's is refused.
        settings: values of the search.
        space: the ranges by name.
        seed: of a study that one process works on.
        shared: whether several processes of this machine work on it. Once they have, it stays
            such a study.

    Raises:
        StudyError: the journal is corrupt, the database cannot be used, or it is another's study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if os.environ.get(DATABASE):
        return DatabaseStudy(name, identity, settings, space)
    before = read_journal(journal, name, identity) if journal.exists() else None
    if not shared and not (before and SHARED in before.user_attrs):
        return LoneStudy(journal, before, name, identity, settings, space, seed)
    if before is None:
        storage = journal_storage(journal)
        before = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        identify(before, identity)
    if SHARED not in before.user_attrs:
        before.set_user_attr(SHARED, True)
    return JournalStudy(before, settings, space, journal)


class JournalStudy(Study):
    """A study that several processes of one machine work on, in a journal.

    A process holds a lock file for its running trial, which the kernel frees when it dies: a trial
    that is running and not locked is enqueued again.
    """

    def __init__(
        self,
        study: optuna.Study,
        settings: SearchConfig,
        space: Mapping[str, Range],
        journal: Path,
    ) -> None:
        super().__init__(study, settings, space, None)
        self._folder = journal.parent
        self._held: KernelLock | None = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = KernelLock(self._folder / "study.lock")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _take(self) -> Asked | None:
        asked = super()._take()
        if asked:
            self._held = KernelLock(self._lock_of(asked.number))
            self._held.acquire()
        return asked

    def _tell(self, value: float | None, state: TrialState) -> FrozenTrial:
        told = super()._tell(value, state)
        self.put_back()
        return told

    def put_back(self) -> None:
        """Leave the running trial to be tried again, by whoever asks next."""
        if self._held:
            self._held.release()
            self._held = None

    def _lock_of(self, number: int) -> Path:
        return self._folder / f"trial-{number}.running"

    def _requeue(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not KernelLock(self._lock_of(trial.number)).held():
                log.warning("trial %d was cut off; it is tried again", trial.number + 1)
                self._again(self._study, trial)
                self._study.tell(trial.number, state=TrialState.FAIL)


class DatabaseStudy(Study):
    """A study that several machines work on, in a database.

    A running trial gives a sign of life now and then; one without is enqueued again.
    """

    def __init__(
        self,
        name: str,
        identity: Mapping[str, str],
        settings: SearchConfig,
        space: Mapping[str, Range],
    ) -> None:
        study, self._storage = database_study(os.environ[DATABASE], name, identity, self._again)
        super().__init__(study, settings, space, None)
        self._ended = threading.Event()
        self._beating = threading.Thread()

    def _take(self) -> Asked | None:
        asked = super()._take()
        if asked:
            self._ended = threading.Event()
            whose = (self._trial._trial_id, self._ended)
            self._beating = threading.Thread(target=self._live, args=whose, daemon=True)
            self._beating.start()
        return asked

    def _live(self, trial_id: int, ended: threading.Event) -> None:
        while True:
            try:
                self._storage.record_heartbeat(trial_id)
            except Exception as error:  # the next call of the study says so, if it stays away
                log.warning("the database of the search does not answer: %s", type(error).__name__)
            if ended.wait(HEARTBEAT_S):
                return

    def close(self) -> None:
        """Close the connections to the database."""
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join()
        self._storage.engine.dispose()

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that came to an end of their own, by number."""
        with _answered():
            return super().ended

    def ask(self) -> Asked | None:
        """The next trial, or None when all have ended; waits for those of other machines."""
        with _answered():
            return super().ask()

    def report(self, epoch: int, value: float) -> bool:
        """Record the running trial's value after an epoch; whether it is not worth going on."""
        with _answered():
            return super().report(epoch, value)

    def tell(self, state: TrialState) -> FrozenTrial:
        """Record how the running trial ended."""
        with _answered():
            return super().tell(state)

    def fail(self, error: str) -> FrozenTrial:
        """Record that the running trial failed, and of what."""
        with _answered():
            return super().fail(error)

    def _tell(self, value: float | None, state: TrialState) -> FrozenTrial:
        self._ended.set()
        if self._frozen().state.is_finished():
            raise TrialLost
        return super()._tell(value, state)

    def put_back(self) -> None:
        """Have the running trial tried again by whoever asks next."""
        self._ended.set()
        with contextlib.suppress(TrialLost, StudyError), _answered():
            trial = self._frozen()
            if not trial.state.is_finished():
                self._again(self._study, trial)
                self._study.tell(self._trial, state=TrialState.FAIL)

    def _requeue(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fail_stale_trials(self._study)

    def _again(self, study: optuna.Study, trial: FrozenTrial) -> None:
        log.warning("trial %d was cut off; it is tried again", trial.number + 1)
        super()._again(study, trial)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Say in one sentence that the database does not answer."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        raise TrialLost from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise lost(error) from None
