"""Search the ranges of a run with Optuna; an interrupted search goes on where it was."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range, Section, choose, ranges
from albef.tasks.task import RunConfig
from albef.training.distributed import world
from pipelines.launch import launch
from pipelines.runs import init_of, run_of
from pipelines.stage import Stage, first, main, write_json
from pipelines.trainer import (
    EndedEarly,
    discard,
    fingerprint,
    fit,
    mirror_of,
    seed_everything,
    training,
    verified_digest,
)

log = logging.getLogger("albef")


class SearchConfig(Section):
    """Values of the search."""

    trials: int
    """Trials in all; the first one is at each range's start."""
    epochs: int
    """Epochs of a trial."""
    pruner: Literal["median", "none"]
    """Whether a trial that is worse than the median of the earlier ones stops early."""
    startup_trials: int
    """Trials drawn at random, and never pruned, before the sampler and the pruner have a say."""


def run(stage: Stage) -> None:
    """Search a run's ranges and write the choice and the trials."""
    config, kind = run_of(stage)
    space = ranges(config)
    target = stage.layout.search(stage.key)
    if not space:
        if first():
            _write(target, {}, [])
            stage.made(target / "choice.json", target / "trials.json")
        return
    settings = stage.section("search", SearchConfig)
    data = verified_digest(stage, config.dataset)
    with training(stage) as device:
        processes = world()
        init = init_of(stage, config)
        key = fingerprint(
            {
                "values": config.model_dump(),
                "search": settings.model_dump(),
                "seed": stage.seed,
                "data": data,
                "init": init.digest,
                "augment": stage.params["datasets"][config.dataset]["augment"],
            }
        )
        folder = stage.scratch(key)
        journal, mirror = folder / "journal", mirror_of(stage, folder)
        if mirror and not journal.exists():
            mirror.pull(folder, journal.name)
        study = Study(journal, settings, space, stage.seed) if first() else None
        primary = kind.primary
        # Of several processes the first one alone has the study; the others train as they are told.
        while asked := processes.told(lambda: study.ask() if study else None):
            number, values = asked
            tried = _trial_config(config, values, settings.epochs)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            log.info("trial %d of %d: %s", number + 1, settings.trials, shown)
            seed_everything(stage.seed)
            task = kind.start(tried, init)
            place = folder / f"trial-{number}"
            ended = TrialState.COMPLETE
            try:
                fit(
                    stage,
                    task,
                    tried,
                    dataset=config.dataset,
                    device=device,
                    folder=place,
                    label=f"{stage.address} trial {number + 1}",
                    on_epoch=lambda n, m: bool(study and study.report(n, m[primary])),
                )
            except EndedEarly:
                ended = TrialState.PRUNED
            if study:
                study.tell(ended)
                discard(stage, place)
                if mirror:
                    mirror.push(journal, journal.name, 1)
    if not study:
        return
    best = study.best()
    _write(target, best.params, [_row(trial) for trial in study.finished])
    stage.made(target / "choice.json", target / "trials.json")
    log.info("chosen: %s (%s %.2f)", json.dumps(best.params), primary, best.value)
    stage.record["trials"] = settings.trials
    discard(stage, folder)


def _trial_config(config: RunConfig, values: Mapping[str, float], epochs: int) -> RunConfig:
    return choose(config, values).model_copy(update={"epochs": epochs, "keep_epochs": ()})


class Study:
    """An Optuna study whose next trial depends on the finished ones alone.

    A trial that a kill left running is forgotten, so it is asked for again with the same number;
    the sampler is seeded from the study's seed and that number, since one that goes on from a
    stored study would repeat its first draws.

    Attributes:
        finished: trials that ended, in order.
    """

    def __init__(
        self, journal: Path, settings: SearchConfig, space: Mapping[str, Range], seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._settings = settings
        self._space = space
        self._seed = seed
        self.finished: list[FrozenTrial] = _finished(journal)
        # Written anew from the finished trials, so that nothing of the one that was cut off stays.
        fresh = journal.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(fresh)))
        self._study = optuna.create_study(
            storage=storage, study_name="search", direction="maximize"
        )
        self._study.add_trials(self.finished)
        fresh.replace(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if settings.pruner == "median":
            pruner = optuna.pruners.MedianPruner(n_startup_trials=settings.startup_trials)
        self._study = optuna.load_study(study_name="search", storage=storage, pruner=pruner)

    def ask(self) -> tuple[int, dict[str, float]] | None:
        """Number and values of the next trial, the first at the start of every range; or None."""
        number = len(self.finished)
        if number == self._settings.trials:
            return None
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._settings.startup_trials, seed=self._seed * 1_000_003 + number
        )
        if number == 0:
            self._study.enqueue_trial({name: range_.start for name, range_ in self._space.items()})
        self._trial = self._study.ask()
        for name, range_ in self._space.items():
            self._trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        return number, dict(self._trial.params)

    def report(self, epoch: int, value: float) -> bool:
        """Record the running trial's value after an epoch; whether it is not worth going on."""
        self._trial.report(value, epoch)
        return epoch < self._settings.epochs and self._trial.should_prune()

    def tell(self, state: TrialState) -> None:
        """Record how the running trial ended; its value is its last report."""
        trial = self._trial
        last = list(trial.storage.get_trial(trial._trial_id).intermediate_values.values())
        value = last[-1] if state == TrialState.COMPLETE else None
        self.finished.append(self._study.tell(trial, value, state))

    def best(self) -> FrozenTrial:
        """The best complete trial; of equals the earliest, so the start wins a tie."""
        complete = [trial for trial in self.finished if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value, -trial.number))


def _finished(journal: Path) -> list[FrozenTrial]:
    if not journal.is_file():
        return []
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="search", storage=storage)
    return [trial for trial in study.get_trials() if trial.state.is_finished()]


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "params": trial.params,
        "values": list(trial.intermediate_values.values()),
        "value": trial.value,
        "start": trial.number == 0,
    }


def _write(target: Path, choice: Mapping[str, float], trials: list[dict[str, Any]]) -> None:
    write_json(target / "choice.json", dict(choice))
    write_json(target / "trials.json", trials)


if __name__ == "__main__":
    main(run, launch)
