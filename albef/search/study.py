"""An Optuna study of one run in a SQLite file, which resumes after a search was killed."""

import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from albef.config import Range
from albef.search.samplers import (
    FIRST,
    SearchConfig,
    SeededSampler,
    attempts,
    make_pruner,
    position,
)

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
    """A budget of trials, the first one at the start of every range, for one process at a time.

    An interrupted trial is tried again with its values and reports when the study is opened again.

    Args:
        file: file of the study.
        name: name of the study, which contains the digest of its inputs.
        settings: values of the search.
        space: ranges by name.
        seed: seed of the study.

    Raises:
        StudyError: the file cannot be used.
    """

    def __init__(
        self, file: Path, name: str, settings: SearchConfig, space: Mapping[str, Range], seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._file, self._settings, self._space = file, settings, space
        with self._storage_errors():
            self._storage = RDBStorage(f"sqlite:///{file}")
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=SeededSampler(settings, space, seed),
                pruner=make_pruner(settings),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
            for trial in self._trials():
                if trial.state == TrialState.RUNNING:
                    self._study.tell(trial.number, state=TrialState.FAIL)
                elif trial.state != TrialState.FAIL or "error" in trial.user_attrs:
                    continue
                log.warning("trial %d was interrupted; it runs again", self.position(trial) + 1)
                self._study.add_trial(
                    create_trial(
                        state=TrialState.WAITING,
                        params=trial.params,
                        distributions=trial.distributions,
                        user_attrs={FIRST: trial.number, **trial.user_attrs},
                        intermediate_values=trial.intermediate_values,
                    )
                )

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that ended without interruption, by position."""
        return [trial for trial in self._trials() if trial.state.is_finished()]

    def position(self, trial: FrozenTrial) -> int:
        """Return the position of a trial in the budget, from 0; a retried trial keeps it."""
        return position(trial, self._study.get_trials(deepcopy=False))

    def run_trial(self, train: Callable[[TrialRequest, Report], None]) -> bool:
        """Train the next trial.

        Args:
            train: function that trains a trial, whose value is its last report. It may raise
                :class:`TrialFailedError`, which counts, or ``optuna.TrialPruned``.

        Returns:
            False if all trials have ended.

        Raises:
            StudyError: the file cannot be used.
            Exception: any other error of ``train``; the next study of the file tries the trial
                again.
        """
        with self._storage_errors():
            if len(self.ended) >= self._settings.trials:
                return False
            self._study.optimize(
                lambda trial: self._train(trial, train), n_trials=1, catch=(TrialFailedError,)
            )
        return True

    def close(self) -> None:
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _train(self, trial: optuna.Trial, train: Callable[[TrialRequest, Report], None]) -> float:
        for name, range_ in self._space.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        request = TrialRequest(self.position(self._frozen(trial)), trial.params)
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

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Raise an error message if the file cannot be used."""
        try:
            yield
        except (SQLAlchemyError, OptunaError) as error:
            cause = str(error.__cause__ or error).split("\n")[0]
            if "disk is full" in cause:  # SQLite's words; the study is whole.
                code = errno.ENOSPC
                raise OSError(code, os.strerror(code), str(self._file)) from None
            raise StudyError(
                f"cannot use the study {self._file} ({cause}); delete its folder to search from "
                "the start"
            ) from None
