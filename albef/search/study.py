"""An Optuna study of one run, which can be resumed after a search was killed.

It is stored in SQLite in the scratch of one machine, or in the database that the environment names,
which several machines share.
"""

import contextlib
import errno
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from albef.config import Range
from albef.search.samplers import SearchConfig, SeededSampler, make_pruner, position

DATABASE = "ALBEF_SEARCH_STORAGE"
"""Environment variable with the address of a database, ``postgresql://user:secret@host/name``."""
HEARTBEAT_S, GRACE_S = 30, 300
"""Seconds between two heartbeats of a trial, and without one before it is tried again."""
POLL_S = 1.0
"""Seconds between two checks for the end of other machines' trials."""
Report = Callable[[int, float], bool]
"""Function that records the metric after an epoch, from 1; true ends the trial early."""
log = logging.getLogger("albef")


class StudyError(ValueError):
    """A study that cannot be used."""


class TrialFailedError(Exception):
    """A trial that fails because of its values: it counts, and the search continues."""


@dataclass(frozen=True)
class TrialRequest:
    """A trial to train: its position in the budget, from 0, and its values."""

    position: int
    values: dict[str, float]


class Study:
    """A budget of trials, the first one at the start of every range.

    An interrupted trial is tried again with its values and reports: at once if this process is the
    only one, otherwise when the trial's heartbeat is missing.

    Args:
        file: file of the study, unless the environment names a database; for one process at a time.
        name: name of the study, which contains the digest of its inputs.
        settings: values of the search.
        space: ranges by name.
        seed: seed of the study.

    Raises:
        StudyError: the file or the database cannot be used.
    """

    def __init__(
        self, file: Path, name: str, settings: SearchConfig, space: Mapping[str, Range], seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna calls heartbeats experimental
        self._settings, self._space = settings, space
        self.repeatable = DATABASE not in os.environ
        """True if equal inputs give equal trials."""
        with _storage_errors(file):
            self._storage = _open(file)
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
            )
            self._study.sampler = SeededSampler(settings, space, seed, self._study)
            self._study.pruner = make_pruner(settings, self._study)
            for trial in self._trials() if self.repeatable else ():
                if trial.state == TrialState.RUNNING:
                    self._study.tell(trial.number, state=TrialState.FAIL)
                elif trial.state != TrialState.FAIL or "error" in trial.user_attrs:
                    continue
                if not self._is_tried_again(trial):  # The disk or memory may have been full.
                    _try_again(self._study, trial)

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that ended without interruption, by number."""
        return [trial for trial in self._counted() if trial.state.is_finished()]

    def position(self, trial: FrozenTrial) -> int:
        """Return the position of a trial in the budget, from 0; a retried trial keeps it."""
        return position(trial, self._trials())

    def run_trial(self, train: Callable[[TrialRequest, Report], None]) -> bool:
        """Train the next trial, or wait for other machines' trials until all have ended.

        Args:
            train: function that trains a trial, whose value is its last report. It may raise
                :class:`TrialFailedError`, which counts, or ``optuna.TrialPruned``.

        Returns:
            False if all trials have ended.

        Raises:
            StudyError: the database cannot be used.
            Exception: any other error of ``train``; the trial will be tried again.
        """
        started: list[int] = []

        def objective(trial: optuna.Trial) -> float:
            started.append(trial.number)
            return self._train(trial, train)

        with _storage_errors():
            while not self._has_trial_left():
                if len(self.ended) >= self._settings.trials:
                    return False
                fail_stale_trials(self._study)
                time.sleep(POLL_S)
            try:
                self._study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
            except (Exception, KeyboardInterrupt) as error:
                for trial in map(self._trials().__getitem__, started):
                    if not self._is_tried_again(trial):
                        _try_again(self._study, trial)
                    elif isinstance(error, ValueError):  # Optuna does not record its end
                        log.warning("another machine runs trial %d", self.position(trial) + 1)
                        return True
                raise
        return True

    def close(self) -> None:
        """Close the connection to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _train(self, trial: optuna.Trial, train: Callable[[TrialRequest, Report], None]) -> float:
        for name, range_ in self._space.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        earlier = [other for other in self._counted() if other.number < trial.number]
        if len(earlier) >= self._settings.trials:
            raise TrialFailedError  # another machine was faster
        request = TrialRequest(self.position(self._trials()[trial.number]), trial.params)
        try:
            train(request, lambda epoch, value: self._report(trial, epoch, value))
            reports = self._trials()[trial.number].intermediate_values
            value = reports[max(reports)] if reports else math.nan
            if not math.isfinite(value):
                raise TrialFailedError(f"the metric after the last epoch is {value}")
        except TrialFailedError as error:
            log.warning("trial %d failed: %s", request.position + 1, error)
            trial.set_user_attr("error", str(error))
            raise
        return value

    def _report(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        with _storage_errors():
            if epoch not in self._trials()[trial.number].intermediate_values:
                try:
                    trial.report(value, epoch)
                except UpdateFinishedTrialError:  # another machine has it by now
                    return True
            return epoch < self._settings.epochs and trial.should_prune()

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _counted(self) -> list[FrozenTrial]:
        """Return the trials of the budget: all except interrupted ones, which have no error."""
        with _storage_errors():
            trials, fail = self._trials(), TrialState.FAIL
            return [t for t in trials if t.state != fail or "error" in t.user_attrs]

    def _has_trial_left(self) -> bool:
        counted = self._counted()
        is_waiting = any(trial.state == TrialState.WAITING for trial in counted)
        return is_waiting or len(counted) < self._settings.trials

    def _is_tried_again(self, trial: FrozenTrial) -> bool:
        """Return whether another machine considered the trial interrupted."""
        histories = (other.system_attrs.get("retry_history", ()) for other in self._trials())
        return any(trial.number in history for history in histories)


def _try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue an interrupted trial again, with its values and reports."""
    log.warning("trial %d was interrupted; it runs again", position(trial, study.trials) + 1)
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _open(file: Path) -> RDBStorage:
    if DATABASE not in os.environ:
        return RDBStorage(f"sqlite:///{file}")
    address = _address()
    try:
        return RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=_try_again,
        )
    except ImportError as error:
        raise StudyError(
            f"{DATABASE} {address.render_as_string(hide_password=True)} needs a missing driver "
            f"({error}); run `pip install '.[postgresql]'`"
        ) from None


def _address() -> URL:
    try:
        address = make_url(os.environ[DATABASE])
    except SQLAlchemyError:
        raise StudyError(
            f"{DATABASE} must be a database URL such as postgresql://user:secret@host/name"
        ) from None
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+pg8000")
    return address


@contextlib.contextmanager
def _storage_errors(file: Path | None = None) -> Iterator[None]:
    """Raise an error message without the password if a study cannot be used."""
    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        cause = str(error.__cause__ or error).split("\n")[0]
        if "disk is full" in cause:  # SQLite's words; the study is whole.
            where = str(file or "the study in scratch")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where) from None
        if DATABASE not in os.environ:
            raise StudyError(
                f"cannot use the study {file or 'in scratch'} ({cause}); delete its folder to "
                "search from the start"
            ) from None
        address = _address()
        cause = cause.replace(str(address.password or "\0"), "***")
        raise StudyError(
            f"cannot use the database {address.render_as_string(hide_password=True)} of {DATABASE} "
            f"({cause}); once it works, run again to resume"
        ) from None
