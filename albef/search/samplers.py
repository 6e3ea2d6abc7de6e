"""How a search chooses what to try next, and which trials it ends early: sections and makers."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from albef.config import Range, Section, by_kind

Count = Annotated[int, Field(ge=1)]


class Tpe(Section):
    """Tree-structured Parzen estimators: draws where good trials lie denser than bad ones."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: Count = 10
    """Trials drawn at random before the estimators have a say."""
    candidates: Count = 24
    """Values drawn for each trial, of which the most promising is tried."""
    multivariate: bool = False
    """Whether several ranges are estimated together instead of one by one."""


class Gp(Section):
    """A Gaussian process with log expected improvement: for few trials over few ranges."""

    kind: Literal["gp"]
    startup_trials: Count = 10
    """Trials drawn at random before the process has a say."""


class Random(Section):
    """Independent draws."""

    kind: Literal["random"]


class Median(Section):
    """Ends a trial that is worse, after an epoch, than the median of the others after that one."""

    kind: Literal["median"] = "median"
    startup_trials: Count = 5
    """Complete trials before any is ended."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of each trial before it may be ended."""


class Hyperband(Section):
    """Successive halving in brackets: of the trials that reach a rung only the best go on."""

    kind: Literal["hyperband"]
    min_epochs: Count = 1
    """Epochs of the lowest rung."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One of so many trials goes on; rungs are so many times apart."""


class Unpruned(Section):
    """No trial is ended early."""

    kind: Literal["none"]


_SAMPLERS: Mapping[str, type[Section]] = {"tpe": Tpe, "gp": Gp, "random": Random}
_PRUNERS: Mapping[str, type[Section]] = {
    "median": Median,
    "hyperband": Hyperband,
    "none": Unpruned,
}


class SearchConfig(Section):
    """Values of the search."""

    trials: Count = 1
    """Trials in all; the first one is at each range's start. One that a kill cut off is tried
    again and counts once."""
    epochs: Count = 1
    """Epochs of a trial. Where a run has as many, the best trial's training is its fine-tuning."""
    sampler: Annotated[
        Tpe | Gp | Random,
        PlainValidator(lambda values: by_kind(values, _SAMPLERS)),
        PlainSerializer(Section.model_dump),
    ] = Tpe()
    """How values are chosen: ``tpe``, ``gp`` or ``random``."""
    pruner: Annotated[
        Median | Hyperband | Unpruned,
        PlainValidator(lambda values: by_kind(values, _PRUNERS)),
        PlainSerializer(Section.model_dump),
    ] = Median()
    """Which trials are ended early: ``median``, ``hyperband`` or ``none``."""

    @model_validator(mode="after")
    def _rungs_come(self) -> Self:
        if isinstance(self.pruner, Hyperband) and self.pruner.min_epochs > self.epochs:
            raise ValueError(
                f"pruner.min_epochs {self.pruner.min_epochs} is more than the {self.epochs} "
                "epochs of a trial"
            )
        return self


def make_pruner(settings: SearchConfig) -> optuna.pruners.BasePruner:
    """Optuna's pruner of a search; a step of it is an epoch."""
    match settings.pruner:
        case Median(startup_trials=startup, warmup_epochs=warmup):
            return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
        case Hyperband(min_epochs=least, reduction_factor=factor):
            return optuna.pruners.HyperbandPruner(least, settings.epochs, factor)
        case Unpruned():
            return optuna.pruners.NopPruner()


def make_sampler(
    settings: SearchConfig, space: Mapping[str, Range], seed: int | None
) -> BaseSampler:
    """Optuna's sampler of a search; ``seed`` is None where nothing has to be repeatable."""
    own: BaseSampler
    match settings.sampler:
        case Tpe(startup_trials=startup, candidates=candidates, multivariate=multivariate):
            own = optuna.samplers.TPESampler(
                n_startup_trials=startup,
                n_ei_candidates=candidates,
                multivariate=multivariate,
                seed=seed,
            )
        case Gp(startup_trials=startup):
            own = optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)
        case Random():
            own = optuna.samplers.RandomSampler(seed)
    return _StartFirst(own, {name: range_.start for name, range_ in space.items()}, seed)


class _StartFirst(BaseSampler):  # type: ignore[misc]
    """The start of every range for trial 0, whoever asks for it; another sampler for the rest.

    Values that were tried are not drawn again: a sampler that learns from complete trials alone
    would propose those of one that was ended early over and over. Random ones take their place.
    """

    def __init__(self, then: BaseSampler, start: Mapping[str, float], seed: int | None) -> None:
        self._then = then
        self._instead = optuna.samplers.RandomSampler(seed)
        self._start = start

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if trial.number == 0:
            return {}
        space: dict[str, BaseDistribution] = self._then.infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, float]:
        if trial.number == 0:
            return {}
        drawn: dict[str, float] = self._then.sample_relative(study, trial, search_space)
        # Of all brackets of Hyperband, of which the study here shows one.
        tried = study._storage.get_all_trials(study._study_id, deepcopy=False)
        if drawn and any(drawn == other.params for other in tried if other.number != trial.number):
            return {
                name: self._instead.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
        return drawn

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> float:
        if trial.number == 0:
            return self._start[param_name]
        return float(self._then.sample_independent(study, trial, param_name, param_distribution))

    def after_trial(self, *args: object) -> None:
        self._then.after_trial(*args)
