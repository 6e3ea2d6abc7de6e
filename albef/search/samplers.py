"""Samplers and pruners of a search: their config sections, and functions that make them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from pydantic import PlainSerializer, PlainValidator

from albef.config import Count, CountOrZero, Range, Section, by_kind


class Tpe(Section):
    """Tree-structured Parzen estimators, which prefer values near good trials to those near bad."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: Count = 10
    """Number of trials drawn at random before the estimators are used."""
    candidates: Count = 24
    """Number of values drawn for each trial; the most promising one is tried."""
    multivariate: bool = False
    """If true, estimate several ranges together instead of one by one."""


class Random(Section):
    """Independent random draws."""

    kind: Literal["random"]


class Median(Section):
    """Pruner that ends a trial if it is worse than the others' median after the same epoch."""

    kind: Literal["median"] = "median"
    startup_trials: Count = 5
    """Number of complete trials before any is ended early."""
    warmup_epochs: CountOrZero = 0
    """Number of epochs of each trial before it may be ended early."""


class Unpruned(Section):
    """No pruner: every trial runs to its end."""

    kind: Literal["none"]


_SAMPLERS: Mapping[str, type[Section]] = {"tpe": Tpe, "random": Random}
_PRUNERS: Mapping[str, type[Section]] = {"median": Median, "none": Unpruned}


class SearchConfig(Section):
    """Values of the search."""

    trials: Count = 1
    """Total number of trials; the first one is at each range's start. A trial that was interrupted
    is tried again and counts once."""
    epochs: Count = 1
    """Number of epochs of a trial."""
    sampler: Annotated[
        Tpe | Random,
        PlainValidator(lambda values: by_kind(values, _SAMPLERS)),
        PlainSerializer(Section.model_dump),
    ] = Tpe()
    """Method that chooses values: ``tpe`` or ``random``."""
    pruner: Annotated[
        Median | Unpruned,
        PlainValidator(lambda values: by_kind(values, _PRUNERS)),
        PlainSerializer(Section.model_dump),
    ] = Median()
    """Method that ends trials early: ``median`` or ``none``."""


def make_pruner(settings: SearchConfig) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of a search; its step is an epoch."""
    match settings.pruner:
        case Median(startup_trials=startup, warmup_epochs=warmup):
            return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
        case Unpruned():
            return optuna.pruners.NopPruner()


def make_sampler(settings: SearchConfig, seed: int) -> BaseSampler:
    """Return Optuna's sampler of a search."""
    match settings.sampler:
        case Tpe(startup_trials=startup, candidates=candidates, multivariate=multivariate):
            sizes = {"n_startup_trials": startup, "n_ei_candidates": candidates}
            return optuna.samplers.TPESampler(**sizes, multivariate=multivariate, seed=seed)
        case Random():
            return optuna.samplers.RandomSampler(seed)


class SeededSampler(BaseSampler):  # type: ignore[misc]
    """Sampler that draws all values of a trial at once, from the seed and the trial's position.

    A plain sampler that resumes a stored study would repeat its first draws. Trial 0 is at the
    start of every range. Random values replace those that were tried: a sampler that learns only
    from complete trials would propose the values of a pruned one again and again.
    """

    def __init__(self, settings: SearchConfig, space: Mapping[str, Range], seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._start = {name: range_.start for name, range_ in space.items()}
        self._space: dict[str, BaseDistribution] = {
            name: FloatDistribution(range_.low, range_.high, log=range_.log)
            for name, range_ in space.items()
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all ranges."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, float]:
        """Return the value of each range."""
        trials = study.get_trials(deepcopy=False)
        number = position(trial, trials)
        if number == 0:
            return self._start
        seed = (self._seed * 1_000_003 + number) % 2**32
        sampler = make_sampler(self._settings, seed)
        joint = sampler.infer_relative_search_space(study, trial)
        values: dict[str, float] = dict(sampler.sample_relative(study, trial, joint))
        for name in self._space:
            if name not in values:
                values[name] = sampler.sample_independent(study, trial, name, self._space[name])
        if any(values == other.params for other in trials if other.number != trial.number):
            random = optuna.samplers.RandomSampler(seed)
            for name in values:
                values[name] = random.sample_independent(study, trial, name, self._space[name])
        return values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> float:
        """Raise an error: all values are drawn at once, so Optuna never calls this."""
        raise NotImplementedError


def attempts(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return the last attempt of each trial of the budget, in order, by its first one's number."""
    return {_first_attempt(trial): trial for trial in trials}


def position(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return the position of a trial among all trials of a study, from 0; a retry keeps it."""
    return list(attempts(trials)).index(_first_attempt(trial))


def _first_attempt(trial: FrozenTrial) -> int:
    history: list[int] = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    return history[0] if history else trial.number
