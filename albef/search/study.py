"""An Optuna study of one run, which resumes after a search was killed.

It is stored in a SQLite file, or in the database that the environment names, which several machines
share.
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
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from albef.config import Range
from albef.search.samplers import SearchConfig, SeededSampler, attempts, make_pruner, position

DATABASE = "ALBEF_SEARCH_STORAGE"
"""Environment variable with the URL of a database, ``postgresql+pg8000://user:secret@host/name``."""
HEARTBEAT_S, GRACE_S = 30, 300
"""Seconds between two heartbeats of a trial, and without one before another machine repeats it."""
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

    An interrupted trial is tried again with its values and reports: when the file is opened again,
    or by another machine when its heartbeat is missing.

    The study is in a ``file``, for one process at a time, unless the environment names a database.
    Its ``name`` contains the digest of its inputs. ``space`` has the ranges by name.

    Raises:
        StudyError: the file or the database cannot be used.
    """

    def __init__(
        self, file: Path, name: str, settings: SearchConfig, space: Mapping[str, Range], seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna calls heartbeats experimental
        self._file, self._settings, self._space = file, settings, space
        with self._storage_errors():
            self._storage = _open(file)
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=SeededSampler(settings, space, seed),
                pruner=make_pruner(settings),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
            for trial in self._trials() if DATABASE not in os.environ else ():
                if trial.state == TrialState.RUNNING:
                    self._study.tell(trial.number, state=TrialState.FAIL)
            self._retry_interrupted()

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that ended without interruption, by position."""
        trials = self._trials()[: self._settings.trials]
        return [t for t in trials if t.state.is_finished() and not _was_interrupted(t)]

    def position(self, trial: FrozenTrial) -> int:
        """Return the position of a trial in the budget, from 0; a retried trial keeps it."""
        return position(trial, self._study.get_trials(deepcopy=False))

    def run_trial(self, train: Callable[[TrialRequest, Report], None]) -> bool:
        """Train the next trial, or wait for other machines' trials until all have ended.

        Args:
            train: function that trains a trial, whose value is its last report. It may raise
                :class:`TrialFailedError`, which counts, or ``optuna.TrialPruned``.

        Returns:
            False if all trials have ended.

        Raises:
            StudyError: the file or the database cannot be used.
            Exception: any other error of ``train``; the trial will be tried again.
        """
        with self._storage_errors():
            while not self._has_trial_left():
                if len(self.ended) >= self._settings.trials:
                    return False
                fail_stale_trials(self._study)
                time.sleep(POLL_S)
            try:
                self._study.optimize(
                    lambda trial: self._train(trial, train), n_trials=1, catch=(TrialFailedError,)
                )
            finally:
                self._retry_interrupted()
        return True

    def close(self) -> None:
        """Close the file or the connection."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _train(self, trial: optuna.Trial, train: Callable[[TrialRequest, Report], None]) -> float:
        for name, range_ in self._space.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        request = TrialRequest(self.position(self._frozen(trial)), trial.params)
        if request.position >= self._settings.trials:
            raise optuna.TrialPruned  # another machine was faster
        try:
            train(request, lambda epoch, value: self._report(trial, epoch, value))
            reports = self._frozen(trial).intermediate_values
            value = reports[max(reports)] if reports else math.nan
            if not math.isfinite(value):
                raise TrialFailedError(f"the metric after the last epoch is {value}")
        except TrialFailedError as error:
            log.warning("trial %d failed: %s", request.position + 1, error)
            trial.set_user_attr("error", str(error))
            raise
        return value

    def _report(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        with self._storage_errors():
            if epoch not in self._frozen(trial).intermediate_values:
                trial.report(value, epoch)
            return epoch < self._settings.epochs and trial.should_prune()

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]

    def _trials(self) -> list[FrozenTrial]:
        """Return the trials of the budget by position; of a retried trial only the last attempt."""
        with self._storage_errors():
            return list(attempts(self._study.get_trials(deepcopy=False)).values())

    def _has_trial_left(self) -> bool:
        trials = self._trials()
        return len(trials) < self._settings.trials or any(
            trial.state == TrialState.WAITING for trial in trials
        )

    def _retry_interrupted(self) -> None:
        for trial in filter(_was_interrupted, self._trials()):
            _retry(self._study, trial)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Raise an error message, without a password, if the study cannot be used."""
        try:
            yield
        except (SQLAlchemyError, OptunaError) as error:
            cause = str(error.__cause__ or error).split("\n")[0]
            if "disk is full" in cause:  # SQLite's words; the study is whole.
                code = errno.ENOSPC
                raise OSError(code, os.strerror(code), str(self._file)) from None
            if DATABASE not in os.environ:
                raise StudyError(
                    f"cannot use the study {self._file} ({cause}); delete its folder to search "
                    "from the start"
                ) from None
            if password := make_url(os.environ[DATABASE]).password:
                cause = cause.replace(password, "***")
            raise StudyError(
                f"cannot use the database of {DATABASE} ({cause}); once it works, run again to "
                "resume"
            ) from None


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    log.warning("trial %d was interrupted; it runs again", position(trial, study.trials) + 1)
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _was_interrupted(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def _open(file: Path) -> RDBStorage:
    if DATABASE not in os.environ:
        return RDBStorage(f"sqlite:///{file}")
    try:
        return RDBStorage(
            make_url(os.environ[DATABASE]).render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=_retry,
        )
    except (ArgumentError, ImportError):
        raise StudyError(
            f"{DATABASE} must be a database URL such as postgresql+pg8000://user:secret@host/name, "
            "whose driver is installed: run `pip install '.[postgresql]'`"
        ) from None
