"""An Optuna study of one run: asked for values, told how they did, safe to be cut off anywhere.

It is kept in a journal in scratch, which the processes of one machine share, or in a database,
which machines share.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range
from albef.io import Locked, lock
from albef.search.samplers import SearchConfig, SeededSampler, first_number, make_pruner
from albef.search.study_storage import (
    DATABASE,
    StudyError,
    TrialLost,
    database_errors,
    database_study,
    heartbeat,
    journal_study,
    try_again,
    unwarned,
)

POLL_S = 1.0
"""Seconds between two looks whether the trials of others have ended."""
SHARED = "shared"
"""Attribute of a study that several processes have worked on."""
log = logging.getLogger("albef")


def place_of(trial: FrozenTrial) -> str:
    """Name of the folder of a trial's training, which one that is tried again goes on in."""
    return f"trial-{first_number(trial)}"


class Study:
    """A budget of trials, the first one at the start of every range, gone on with where begun.

    A trial that a kill cut off is asked for again with its values and what it has reported, so that
    a pruner decides as it would have. In a journal it is the same trial: a process holds a lock for
    its running one, which the kernel frees when it dies. In a database it is one that Optuna
    enqueues again, for lack of signs of life.

    Args:
        journal: file of the study, unless the environment names a database.
        name: of the study, which holds the digest of what it is a study of.
        shared: whether several processes of this machine work on it. Once they have, it stays such
            a study.

    Raises:
        StudyError: the journal is corrupt or another process' own, or the database cannot be used.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        settings: SearchConfig,
        space: Mapping[str, Range],
        *,
        seed: int,
        shared: bool,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._settings = settings
        self._space = space
        self._folder = journal.parent
        self._alone = contextlib.ExitStack()  # keeps others out of a study that is repeatable
        self._database: RDBStorage | None = None
        self._trial: optuna.Trial
        self._alive = contextlib.ExitStack()  # tells others that the running trial is at work
        if os.environ.get(DATABASE):
            self._study, self._database = database_study(name)
        else:
            self._study = journal_study(journal, name)
            if shared and SHARED not in self._study.user_attrs:
                self._study.set_user_attr(SHARED, True)
        self.repeatable = not self._database and SHARED not in self._study.user_attrs
        """Whether equal inputs give equal trials."""
        if self.repeatable:
            try:
                self._alone.enter_context(lock(self._folder / "study.lock"))
            except Locked as other:
                raise StudyError(
                    f"process {other.holder} already searches in {self._folder}; wait for it or "
                    "stop it"
                ) from None
        self._study.sampler = SeededSampler(settings, space, seed, self._study)
        self._study.pruner = make_pruner(settings, self._study)

    @property
    def complete(self) -> bool:
        """Whether the budget is spent and every trial has ended."""
        return len(self.ended) >= self._settings.trials

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that came to an end of their own, by number."""
        return [trial for trial in self._counted() if trial.state.is_finished()]

    @database_errors()
    def ask(self) -> FrozenTrial | None:
        """The next trial, or None when all have ended; waits for those of others."""
        while True:
            with self._ask_lock():
                if trial := self._resume_trial() or self._next_trial():
                    break
            if self.complete:
                return None
            time.sleep(POLL_S)
        self._trial = trial
        for name, range_ in self._space.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        return self._frozen()

    @database_errors()
    def report(self, epoch: int, value: float) -> bool:
        """Record the running trial's value after an epoch; true where that was its last one, as it
        is not worth going on."""
        if epoch not in self._frozen().intermediate_values:
            self._trial.report(value, epoch)
        ends = epoch < self._settings.epochs and self._trial.should_prune()
        if ends:
            self._end(TrialState.PRUNED)
        return ends

    @database_errors()
    def complete_trial(self) -> FrozenTrial:
        """Record that the running trial came to its end; its value is its last report.

        One without a finite value has failed.
        """
        reports = self._frozen().intermediate_values
        value = reports[max(reports)] if reports else math.nan
        if not math.isfinite(value):
            return self.fail_trial(
                f"the metric after the last epoch is {value}, which is no number"
            )
        return self._end(TrialState.COMPLETE, value)

    @database_errors()
    def fail_trial(self, error: str) -> FrozenTrial:
        """Record that the running trial failed, and of what."""
        self._trial.set_user_attr("error", error)
        return self._end(TrialState.FAIL)

    def put_back(self) -> None:
        """Leave the running trial to be tried again, by whoever asks next."""
        self._alive.close()
        if self._database:
            with contextlib.suppress(TrialLost, StudyError), database_errors():
                trial = self._frozen()
                self._end(TrialState.FAIL)
                try_again(self._study, trial)

    def close(self) -> None:
        """Close what the study holds open."""
        self._alive.close()
        self._alone.close()
        if self._database:
            self._database.engine.dispose()

    def _frozen(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self._trial.number]

    @database_errors()
    def _counted(self) -> list[FrozenTrial]:
        """Trials of the budget: all but those that a kill ended, which have no error."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state != TrialState.FAIL or "error" in trial.user_attrs
        ]

    def _end(self, state: TrialState, value: float | None = None) -> FrozenTrial:
        with self._alive:  # until the end is written: one that is not alive is taken for cut off
            if self._frozen().state.is_finished():
                raise TrialLost
            return self._study.tell(self._trial, value, state)

    def _resume_trial(self) -> optuna.Trial | None:
        """A trial whose process has died; those of a database are put back to be asked for."""
        if self._database:
            with unwarned():
                fail_stale_trials(self._study)
            return None
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._hold(frozen.number):
                log.warning("trial %d was cut off; it is tried again", frozen.number + 1)
                return optuna.Trial(self._study, frozen._trial_id)
        return None

    def _next_trial(self) -> optuna.Trial | None:
        """A trial that waits or a new one; None where the budget is spent."""
        counted = self._counted()
        waiting = any(trial.state == TrialState.WAITING for trial in counted)
        if len(counted) >= self._settings.trials and not waiting:
            return None
        with unwarned():
            trial = self._study.ask()
        if not self._database:
            self._hold(trial.number)
            return trial
        if sum(other.number < trial.number for other in self._counted()) >= self._settings.trials:
            self._study.tell(trial, state=TrialState.FAIL)  # another machine was faster
            return None
        self._alive.enter_context(heartbeat(self._database, trial._trial_id))
        return trial

    def _hold(self, number: int) -> bool:
        """Lock a trial of a journal for this process, if no other one has it."""
        try:
            self._alive.enter_context(lock(self._folder / f"trial-{number}.running"))
        except Locked:
            return False
        return True

    def _ask_lock(self) -> contextlib.AbstractContextManager[object]:
        """One process of a machine asks at a time."""
        if self.repeatable:
            return contextlib.nullcontext()
        return lock(self._folder / "study.lock", wait=lambda holder: None)
