"""The trials of a search: each is a training, whose end the study is told."""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range, choose, ranges
from albef.data.shards import ShardError
from albef.distributed import world
from albef.models.weights import Checkpoint, load_checkpoint
from albef.search.samplers import SearchConfig
from albef.search.study import Study, place_of
from albef.search.study_storage import StudyError, TrialLost
from albef.search.summary import best_of
from albef.tasks.task import RunConfig, RunTask
from albef.training.loop import NotFinite
from albef.training.mirror import Mirror
from albef.training.state import StateLocked, StateUnfit, TrainingState
from pipelines.stage import WORKER, Stage, run_of, verified_digest, write_json
from pipelines.trainer import TRIAL, EndedEarly, circumstances, fingerprint, fit, mirror_of

log = logging.getLogger("albef")


@dataclass(frozen=True)
class Search:
    """What is searched, and where its work in progress lies."""

    config: RunConfig
    kind: type[RunTask]
    settings: SearchConfig
    space: Mapping[str, Range]
    init: Checkpoint
    key: str
    """The fingerprint of all that the study depends on."""
    name: str
    """Of the study."""
    folder: Path
    mirror: Mirror | None
    """Of the journal; workers leave that to the process that started them."""

    @property
    def start(self) -> dict[str, float]:
        """The values of the first trial."""
        return {name: range_.start for name, range_ in self.space.items()}

    @property
    def journal(self) -> Path:
        """The file of a study that is in no database."""
        return self.folder / "journal"

    def mirror_journal(self) -> None:
        """Copy the journal to the mirror, if there are both."""
        if self.mirror and self.journal.exists():
            self.mirror.push(self.journal, self.journal.name, 1)
            self.mirror.wait()

    def study(self, stage: Stage) -> Study:
        """The study, gone on with where there is one."""
        shared = stage.runtime.search_workers > 1
        seed = stage.seed
        return Study(self.journal, self.name, self.settings, self.space, seed=seed, shared=shared)

    def config_of(self, values: Mapping[str, float]) -> RunConfig:
        """The values of a trial's training: the run's own where it has as many epochs."""
        config = choose(self.config, values)
        if config.epochs == self.settings.epochs:
            return config
        return config.model_copy(update={"epochs": self.settings.epochs, "keep_epochs": ()})


def read_search(stage: Stage) -> Search | None:
    """What there is to search; None where no value is a range."""
    config, kind = run_of(stage)
    space = ranges(config)
    if not space:
        return None
    settings = stage.section("search", SearchConfig)
    data = verified_digest(stage, config.dataset)
    init = load_checkpoint(stage.layout.model(config.init))
    key = fingerprint(
        {
            "values": config.model_dump(),
            "search": settings.model_dump(),
            "seed": stage.seed,
            "data": data,
            "init": init.digest,
        }
    )
    folder = stage.scratch_of(stage.address, key)
    mirror = None if WORKER in os.environ else mirror_of(stage, folder)
    name = f"{stage.address}-{key[:16]}"
    return Search(config, kind, settings, space, init, key, name, folder, mirror)


def run_trials(stage: Stage, search: Search, study: Study | None, device: torch.device) -> None:
    """Run trials until all have ended; of several processes that train one together, the first
    alone has the study, and the others train as they are told."""
    processes = world()
    while trial := processes.broadcast(lambda: study.ask() if study else None):
        values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
        log.info("trial %d of %d: %s", trial.number + 1, search.settings.trials, values)
        try:
            _run(stage, search, study, trial, device)
        except TrialLost:
            log.warning("trial %d was given to another machine meanwhile", trial.number + 1)
        except BaseException:
            if study:
                study.put_back()
            raise


def _run(
    stage: Stage, search: Search, study: Study | None, trial: FrozenTrial, device: torch.device
) -> None:
    """Train a trial, tell the study how it ended, and keep the best one's training."""
    folder = search.folder / place_of(trial)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> bool:
        ends = bool(study and study.report(epoch, metrics[search.kind.primary]))
        search.mirror_journal()
        return ends

    error, pruned = "", False
    config = search.config_of(trial.params)
    try:
        torch.manual_seed(stage.seed)
        task = search.kind.start(config, search.init)
        label = f"{stage.address} trial {trial.number + 1}"
        fit(stage, task, device, folder, label=label, on_epoch=on_epoch)
    except EndedEarly:
        pruned = True
    except (OSError, ShardError, StateLocked, StateUnfit, StudyError, TrialLost):
        raise  # the machine's, the data's or the study's fault, not the values'
    except NotFinite as stopped:
        error = stopped.what
    except Exception as raised:
        if world().size > 1:  # the other processes may not have met it
            raise
        text = str(raised).replace(str(folder), folder.name)
        error = text if isinstance(raised, ValueError) else f"{type(raised).__name__}: {text}"
    if study is None:
        return
    if not pruned:
        if not error:
            for state in TrainingState(folder).files()[1:]:
                state.unlink()
            conditions = circumstances(stage, device)
            write_json(folder / TRIAL, {"trial": trial.number, "how": conditions})
        trial = study.fail_trial(error) if error else study.complete_trial()
        if trial.state == TrialState.FAIL:
            log.warning("trial %d failed: %s", trial.number + 1, trial.user_attrs["error"])
    if mirror := mirror_of(stage, folder):
        mirror.clear()
    ended = study.ended
    complete = [other for other in ended if other.state == TrialState.COMPLETE]
    best = {place_of(best_of(complete, search.start))} if complete else set()
    for name in {place_of(other) for other in ended} - best:
        shutil.rmtree(search.folder / name, ignore_errors=True)
    search.mirror_journal()
