"""The trials of a search: each is a training, whose end the study is told."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range, choose
from albef.data.shards import ShardError
from albef.models.weights import Checkpoint
from albef.search.samplers import SearchConfig
from albef.search.shared_study import open_study
from albef.search.study import Asked, Study, TrialLost, place_of
from albef.search.study_storage import StudyError
from albef.search.summary import best_of
from albef.tasks.task import RunConfig, RunTask
from albef.training.distributed import world
from albef.training.loop import NotFinite
from albef.training.mirror import Mirror
from albef.training.state import StateLocked, StateUnfit
from pipelines.stage import WORKER, Stage
from pipelines.trainer import EndedEarly, fit, mirror_of, seed_everything
from pipelines.trial_reuse import sign

log = logging.getLogger("albef")


@dataclass(frozen=True)
class Search:
    """What is searched, and where its work in progress lies."""

    config: RunConfig
    kind: type[RunTask]
    settings: SearchConfig
    space: Mapping[str, Range]
    init: Checkpoint
    data: str
    key: str
    folder: Path

    @property
    def start(self) -> dict[str, float]:
        """The values of the first trial."""
        return {name: range_.start for name, range_ in self.space.items()}

    @property
    def journal(self) -> Path:
        """The file of a study that is in no database."""
        return self.folder / "journal"

    def trial(self, values: Mapping[str, float]) -> RunConfig:
        """The values of a trial's training: the run's own where it has as many epochs."""
        config = choose(self.config, values)
        if config.epochs == self.settings.epochs:
            return config
        return config.model_copy(update={"epochs": self.settings.epochs, "keep_epochs": ()})

    def study(self, stage: Stage) -> Study:
        """The study, gone on with where there is one."""
        return open_study(
            self.journal,
            f"{stage.address}-{self.key[:16]}",
            {"run": stage.key, "space": json.dumps(_plain(self.space)), "values": self.key[:16]},
            self.settings,
            self.space,
            seed=stage.seed,
            shared=stage.runtime.search_workers > 1,
        )


def run_trials(stage: Stage, search: Search, study: Study | None, device: torch.device) -> None:
    """Run trials until all have ended; of several processes that train one together, the first
    alone has the study, and the others train as they are told."""
    processes = world()
    mirror = mirror_of(stage, search.folder) if WORKER not in os.environ else None
    while asked := processes.told(lambda: study.ask() if study else None):
        shown = ", ".join(f"{name} {value:.3g}" for name, value in asked.values.items())
        log.info("trial %d of %d: %s", asked.number + 1, search.settings.trials, shown)
        place = search.folder / asked.place

        def on_epoch(epoch: int, metrics: dict[str, float]) -> bool:
            ends = bool(study and study.report(epoch, metrics[search.kind.primary]))
            mirrored(mirror, search.journal)
            return ends

        try:
            state, error = _train(stage, search, asked, place, device, on_epoch)
            if study:
                _tell(stage, search, study, asked, state, error, place, device)
                mirrored(mirror, search.journal)
        except TrialLost:
            log.warning("trial %d was given to another machine meanwhile", asked.number + 1)
        except BaseException:
            if study:
                study.put_back()
            raise


def _train(
    stage: Stage,
    search: Search,
    asked: Asked,
    place: Path,
    device: torch.device,
    on_epoch: Callable[[int, dict[str, float]], bool],
) -> tuple[TrialState, str]:
    """Train a trial; how it ended, and of what if it failed."""
    config = search.trial(asked.values)
    try:
        seed_everything(stage.seed)
        fit(
            stage,
            search.kind.start(config, search.init),
            config,
            dataset=config.dataset,
            device=device,
            folder=place,
            label=f"{stage.address} trial {asked.number + 1}",
            on_epoch=on_epoch,
        )
    except EndedEarly:
        return TrialState.PRUNED, ""
    except (OSError, ShardError, StateLocked, StateUnfit, StudyError, TrialLost):
        raise  # the machine's, the data's or the study's fault, not the values'
    except NotFinite as error:
        return TrialState.FAIL, error.what
    except Exception as error:
        if world().size > 1:  # the other processes may not have met it
            raise
        text = str(error).replace(str(place), place.name)
        named = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
        return TrialState.FAIL, named
    return TrialState.COMPLETE, ""


def _tell(
    stage: Stage,
    search: Search,
    study: Study,
    asked: Asked,
    state: TrialState,
    error: str,
    place: Path,
    device: torch.device,
) -> None:
    if state == TrialState.COMPLETE:
        sign(stage, place, asked.number, device)
    told = study.fail(error) if error else study.tell(state)
    if told.state == TrialState.FAIL:
        log.warning("trial %d failed: %s", asked.number + 1, told.user_attrs["error"])
    if mirror := mirror_of(stage, place):
        mirror.clear()
    _keep_best(search.folder, study.ended, search.start)


def _keep_best(folder: Path, ended: Sequence[FrozenTrial], start: dict[str, float]) -> None:
    """Remove the trainings of all trials that ended but the best one's."""
    complete = any(trial.state == TrialState.COMPLETE for trial in ended)
    best = place_of(best_of(ended, start)) if complete else ""
    for trial in ended:
        if place_of(trial) != best:
            shutil.rmtree(folder / place_of(trial), ignore_errors=True)


def mirrored(mirror: Mirror | None, journal: Path) -> None:
    """Copy the journal to the mirror, if there are both."""
    if mirror and journal.exists():
        mirror.push(journal, journal.name, 1)
        mirror.wait()


def _plain(space: Mapping[str, Range]) -> dict[str, Any]:
    return {name: range_.model_dump() for name, range_ in space.items()}
