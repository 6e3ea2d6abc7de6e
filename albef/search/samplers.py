"""How a search chooses what to try next, and which trials it ends early: sections and makers."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
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
_PRUNERS: Mapping[str, type[Section]] = {"median": Median, "hyperband": Hyperband, "none": Unpruned}


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


def make_pruner(settings: SearchConfig, study: optuna.Study) -> optuna.pruners.BasePruner:
    """Optuna's pruner of a search; a step of it is an epoch."""
    match settings.pruner:
        case Median(startup_trials=startup, warmup_epochs=warmup):
            return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup)
        case Hyperband(min_epochs=least, reduction_factor=factor):
            pruner = optuna.pruners.HyperbandPruner(least, settings.epochs, factor)
            # Its brackets, by which samplers learn, are made when it is first asked: a study that
            # goes on would else draw otherwise than one that was not cut off.
            pruner.prune(study, create_trial(state=TrialState.RUNNING))
            return pruner
        case Unpruned():
            return optuna.pruners.NopPruner()


def make_sampler(settings: SearchConfig, seed: int) -> BaseSampler:
    """Optuna's sampler of a search."""
    match settings.sampler:
        case Tpe(startup_trials=startup, candidates=candidates, multivariate=multivariate):
            return optuna.samplers.TPESampler(
                n_startup_trials=startup,
                n_ei_candidates=candidates,
                multivariate=multivariate,
                seed=seed,
            )
        case Gp(startup_trials=startup):
            return optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)
        case Random():
            return optuna.samplers.RandomSampler(seed)


class SeededSampler(BaseSampler):  # type: ignore[misc]
    """Draws all values of a trial at once, from the study's seed and the trial's position.

    A sampler that goes on from a stored study would repeat its first draws. Trial 0 is at the start
    of every range. Values that were tried are not drawn again: a sampler that learns from complete
    trials alone would propose those of one that was ended early over and over. Random ones take
    their place.

    Args:
        study: the whole of it; Hyperband shows a sampler one bracket's trials.
    """

    def __init__(
        self, settings: SearchConfig, space: Mapping[str, Range], seed: int, study: optuna.Study
    ) -> None:
        self._settings = settings
        self._start = {name: range_.start for name, range_ in space.items()}
        self._space: dict[str, BaseDistribution] = {
            name: FloatDistribution(range_.low, range_.high, log=range_.log)
            for name, range_ in space.items()
        }
        self._seed = seed
        self._study = study

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All ranges."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, float]:
        """The value of each range."""
        trials = self._study.get_trials(deepcopy=False)
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
            sampler = optuna.samplers.RandomSampler(seed)
            return {
                name: sampler.sample_independent(study, trial, name, self._space[name])
                for name in values
            }
        return values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> float:
        """Never asked for, as all values are drawn at once."""
        raise NotImplementedError


def position(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Position of a trial among all that were asked for, from 0.

    A trial that repeats one that was cut off has that one's position, as Optuna's retry notes it.

    Args:
        trials: all of the study, by number.
    """
    first = trial.system_attrs.get("failed_trial", trial.number)
    return sum("failed_trial" not in other.system_attrs for other in trials[:first])
