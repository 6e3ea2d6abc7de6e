"""An Optuna study of one run: asked for values, told how they did, safe to be cut off anywhere."""

import contextlib
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range
from albef.search.samplers import SearchConfig, make_pruner, make_sampler
from albef.search.study_storage import identify, journal_storage

POLL_S = 1.0
"""Seconds between two looks whether the trials of others have ended."""


class Asked(NamedTuple):
    """A trial to be run."""

    number: int
    """Of the trial, from 0."""
    place: str
    """Name of the folder of its training; one that was cut off goes on in its own."""
    values: dict[str, float]
    """The value of each range."""


class TrialLost(Exception):
    """The running trial was given to another process, since this one seemed dead."""


def place_of(trial: FrozenTrial) -> str:
    """Name of the folder of a trial's training, which one that is tried again goes on in."""
    return f"trial-{trial.user_attrs.get('again', trial.number)}"


class Study:
    """What every study does: a budget of trials, the first one at the start of every range.

    A trial that a kill left running is asked for again with the same values, and what it reported
    is reported again before it goes on, so that a pruner decides as it would have.

    Args:
        study: Optuna's.
        settings: values of the search.
        space: the ranges by name.
        seed: of the sampler; None draws anew each time.
    """

    repeatable = False
    """Whether equal inputs give equal trials."""

    def __init__(
        self,
        study: optuna.Study,
        settings: SearchConfig,
        space: Mapping[str, Range],
        seed: int | None,
    ) -> None:
        self._study = study
        self._study.pruner = pruner = make_pruner(settings)
        if isinstance(pruner, optuna.pruners.HyperbandPruner):
            # Else its brackets, by which samplers learn, are made when it is first asked: a study
            # that goes on would draw otherwise than one that was not cut off.
            pruner._try_initialization(study)
        self._settings = settings
        self._space = space
        self._seed = seed
        self._trial: optuna.Trial
        self._decided: dict[int, bool] = {}

    @property
    def complete(self) -> bool:
        """Whether the budget is spent and every trial has ended."""
        return len(self.ended) >= self._settings.trials

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that came to an end of their own, by number."""
        return [trial for trial in self._counted() if trial.state.is_finished()]

    def ask(self) -> Asked | None:
        """The next trial, or None when all have ended; waits for those of others."""
        while True:
            with self._alone():
                self._requeue()
                counted = self._counted()
                if any(trial.state == TrialState.WAITING for trial in counted) or (
                    len(counted) < self._settings.trials
                ):
                    if asked := self._take():
                        return asked
                elif all(trial.state.is_finished() for trial in counted):
                    return None
            time.sleep(POLL_S)

    def report(self, epoch: int, value: float) -> bool:
        """Record the running trial's value after an epoch; whether it is not worth going on."""
        if epoch not in self._decided:
            self._trial.report(value, epoch)
            ends = epoch < self._settings.epochs and self._trial.should_prune()
            self._decided[epoch] = ends
        return self._decided[epoch]

    def tell(self, state: TrialState) -> FrozenTrial:
        """Record how the running trial ended; its value is its last report.

        One without a finite value has failed.
        """
        reports = self._frozen().intermediate_values
        value = reports[max(reports)] if reports else math.nan
        if state == TrialState.COMPLETE and not math.isfinite(value):
            return self.fail(f"the metric after the last epoch is {value}, which is no number")
        return self._tell(value if state == TrialState.COMPLETE else None, state)

    def fail(self, error: str) -> FrozenTrial:
        """Record that the running trial failed, and of what."""
        self._trial.set_user_attr("error", error)
        return self._tell(None, TrialState.FAIL)

    def put_back(self) -> None:
        """Leave the running trial to be tried again."""

    def close(self) -> None:
        """Close what the study holds open."""

    def _tell(self, value: float | None, state: TrialState) -> FrozenTrial:
        return self._study.tell(self._trial, value, state)

    def _frozen(self) -> FrozenTrial:
        return self._trial.storage.get_trial(self._trial._trial_id)

    def _counted(self) -> list[FrozenTrial]:
        """Trials of the budget: all but those that a kill ended, which have no error."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state != TrialState.FAIL or "error" in trial.user_attrs
        ]

    def _take(self) -> Asked | None:
        """Make or take up a trial; None where another was faster and the budget is spent."""
        expected = len(self._study.get_trials(deepcopy=False))
        seed = None if self._seed is None else self._seed * 1_000_003 + expected
        self._study.sampler = make_sampler(self._settings, self._space, seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage")
            trial = self._trial = self._study.ask()
        self._decided = {}
        for name, range_ in self._space.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        before = [other for other in self._counted() if other.number < trial.number]
        if len(before) >= self._settings.trials:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        for epoch, value in trial.user_attrs.get("reports", {}).items():
            self.report(int(epoch), value)
        return Asked(trial.number, place_of(self._frozen()), dict(trial.params))

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _requeue(self) -> None:
        """Have the trials of processes that died tried again."""

    def _again(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Enqueue a trial that was cut off, with its values and what it reported."""
        values = trial.system_attrs.get("fixed_params") or trial.params
        if set(values) != set(self._space):
            return  # cut off before it had values: another one is drawn instead
        told = {str(epoch): value for epoch, value in trial.intermediate_values.items()}
        again = {
            "again": trial.user_attrs.get("again", trial.number),
            "reports": trial.user_attrs.get("reports", {}) | told,
        }
        study.enqueue_trial(values, user_attrs=again)


class LoneStudy(Study):
    """A study that one process works on: its next trial depends on the ended ones alone.

    The sampler is seeded from the study's seed and the trial's number, since one that goes on from
    a stored study would repeat its first draws.
    """

    repeatable = True

    def __init__(
        self,
        journal: Path,
        before: optuna.Study | None,
        name: str,
        identity: Mapping[str, str],
        settings: SearchConfig,
        space: Mapping[str, Range],
        seed: int,
    ) -> None:
        """Write the journal anew from the ended trials, so that of the one that was cut off its
        values and reports stay and nothing else."""
        fresh = journal.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        study = optuna.create_study(
            storage=journal_storage(fresh), study_name=name, direction="maximize"
        )
        super().__init__(study, settings, space, seed)
        identify(study, identity)
        for trial in before.get_trials() if before else ():
            if trial.state.is_finished():
                study.add_trial(trial)
            else:
                self._again(study, trial)
        fresh.replace(journal)
        study = optuna.load_study(study_name=name, storage=journal_storage(journal))
        super().__init__(study, settings, space, seed)
