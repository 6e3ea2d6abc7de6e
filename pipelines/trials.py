"""Trials of a search with Optuna; an interrupted search resumes."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna import TrialPruned
from optuna.trial import TrialState

from albef.config import Range, choose, ranges
from albef.data.shards import ShardError
from albef.distributed import world
from albef.io import LockedError, lock
from albef.models.weights import Checkpoint, load_checkpoint
from albef.search.samplers import SearchConfig
from albef.search.study import DATABASE, Report, Study, StudyError, TrialFailedError, TrialRequest
from albef.search.summary import best_of, evidence, rows
from albef.tasks.task import RunConfig, RunTask
from albef.training.loop import NonFiniteError
from albef.training.state import CheckpointLockedError, CheckpointMismatchError, TrainingState
from pipelines.launch import sharing
from pipelines.stage import Stage, lock_of, memory_error, run_of, verified_digest, write_json
from pipelines.trainer import (
    TRIAL,
    EndedEarlyError,
    discard,
    fingerprint,
    fit,
    mirror_of,
    numeric_environment,
    parents_of,
    provenance_of,
)

_STUDY = "study.db"
"""File of the study in the scratch folder of a search, unless a database stores it."""
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Search:
    """Inputs of a search; ``key`` is the fingerprint of all that the study depends on."""

    stage: Stage
    config: RunConfig
    kind: type[RunTask]
    settings: SearchConfig
    space: Mapping[str, Range]
    init: Checkpoint
    key: str

    @property
    def start(self) -> dict[str, float]:
        """Values of the first trial."""
        return {name: range_.start for name, range_ in self.space.items()}

    def config_of(self, values: Mapping[str, float]) -> RunConfig:
        """Return the values of a trial; those of the run if it has the same number of epochs."""
        config = choose(self.config, values)
        if config.epochs == self.settings.epochs:
            return config
        return config.model_copy(update={"epochs": self.settings.epochs, "keep_epochs": ()})


Write = Callable[[Mapping[str, float], Mapping[str, Any]], None]
"""Writer of the chosen values and the trials."""


def search_ranges(stage: Stage, write: Write) -> None:
    """Search the ranges of a run and write the choice and the trials."""
    search = _read(stage)
    with (
        stage.scratch(search.key, alone=DATABASE not in os.environ) as folder,
        sharing(stage) as device,
    ):
        trials = _Trials(search, folder, device)
        if not stage.first:
            trials.follow()
            return
        mirror = mirror_of(stage, folder)
        if mirror and not (folder / _STUDY).exists() and mirror.names(_STUDY):
            mirror.fetch(_STUDY, folder / _STUDY)
        name = f"{stage.address}-{search.key[:16]}"
        study = Study(folder / _STUDY, name, search.settings, search.space, stage.seed)
        with contextlib.closing(study):
            trials.run(study)
            _conclude(search, study, folder, write)


def _read(stage: Stage) -> Search:
    """Return the search of a stage."""
    config, kind = run_of(stage)
    settings = stage.section("search", SearchConfig)
    data = verified_digest(stage, config.dataset)
    init = load_checkpoint(stage.layout.model(config.init))
    inputs = {"seed": stage.seed, "data": data, "init": init.digest}
    values = {"values": config.model_dump(), "search": settings.model_dump()}
    key = fingerprint(values | inputs)
    return Search(stage, config, kind, settings, ranges(config), init, key)


@dataclass(frozen=True)
class _Trials:
    """The trials of a search, trained on a device in its scratch folder."""

    search: Search
    folder: Path
    device: torch.device

    def run(self, study: Study) -> None:
        """Run trials until all have ended, in the process that owns the study."""
        search = self.search

        def train(request: TrialRequest, report: Report) -> None:
            def report_and_mirror(epoch: int, value: float) -> bool:
                ends = report(epoch, value)
                self._mirror_study()
                return ends

            values = ", ".join(f"{name} {value:.3g}" for name, value in request.values.items())
            log.info("trial %d of %d: %s", request.position + 1, search.settings.trials, values)
            _send(request)
            self._train(request, report_and_mirror)

        while study.run_trial(train):
            ended = study.ended
            complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
            best = best_of(complete, search.start) if complete else None
            for trial in ended:
                training = _folder_of(study.position(trial), self.folder)
                if trial is not best and training.exists():
                    discard(search.stage, training)
            self._mirror_study()
        _send(None)

    def follow(self) -> None:
        """Train the trials of the first process, in another process."""
        while request := _send(None):
            with contextlib.suppress(TrialFailedError, TrialPruned):
                self._train(request, lambda epoch, value: False)

    def _train(self, request: TrialRequest, report: Report) -> None:
        """Train a trial.

        Raises:
            TrialPruned: the trial was ended early.
            TrialFailedError: the trial failed because of its values.
        """
        search, stage = self.search, self.search.stage
        folder = _folder_of(request.position, self.folder)
        label = f"{stage.address} trial {request.position + 1}"

        def report_primary(epoch: int, metrics: dict[str, float]) -> bool:
            return report(epoch, metrics[search.kind.primary])

        try:
            torch.manual_seed(stage.seed)
            task = search.kind.start(search.config_of(request.values), search.init)
            fit(stage, task, self.device, folder, label=label, on_epoch=report_primary)
        except EndedEarlyError:
            raise TrialPruned from None
        except NonFiniteError as error:
            raise TrialFailedError(error.problem) from None
        except (OSError, ShardError, CheckpointLockedError, CheckpointMismatchError, StudyError):
            raise  # not caused by the trial's values
        except Exception as error:
            # The other processes may have no error; and values are not to blame for short memory.
            if world().size > 1 or memory_error(error):
                raise
            text = str(error).replace(str(folder), folder.name)
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise TrialFailedError(kind + text) from None
        if stage.first:
            for state in TrainingState(folder).files()[1:]:
                state.unlink()
            how = numeric_environment(stage, self.device)
            write_json(folder / TRIAL, {"trial": request.position, "how": how})
            if mirror := mirror_of(stage, folder):
                mirror.clear()

    def _mirror_study(self) -> None:
        mirror, study = mirror_of(self.search.stage, self.folder), self.folder / _STUDY
        if mirror and study.exists():
            mirror.push(study, _STUDY, 1)
            mirror.wait()


def _send(request: TrialRequest | None) -> TrialRequest | None:
    """Send the first process' next trial to the others and return it; None is the end."""
    return world().broadcast(lambda: request)


def _folder_of(position: int, scratch: Path) -> Path:
    """Return the folder in which a trial is trained; a retried trial resumes there."""
    return scratch / f"trial-{position}"


def _conclude(search: Search, study: Study, folder: Path, write: Write) -> None:
    """Write the chosen values, and leave the best training to fine-tuning if it is the same."""
    stage, ended = search.stage, study.ended
    try:
        best = best_of(ended, search.start)
    except ValueError:
        discard(stage, folder)  # the cause may be fixed: the next search starts anew
        raise
    summary = evidence(ended, search.start, search.kind.primary, study.repeatable)
    write(best.params, {"evidence": summary, "trials": rows(ended, search.start)})
    log.info("chosen: %s (%s %.2f)", json.dumps(best.params), summary["metric"], best.value)
    stage.record |= {"trials": len(ended), "search": summary}
    training = _folder_of(study.position(best), folder)
    if search.config.epochs == search.settings.epochs and (training / TRIAL).exists():
        config = choose(search.config, best.params)
        _, key = provenance_of(stage, config, **parents_of(config, search.init))
        scratch = stage.scratch_of(f"finetune@{stage.key}", key)
        # Another clone may fine-tune there, or another machine may have taken it.
        with contextlib.suppress(LockedError, FileNotFoundError), lock(lock_of(scratch)):
            shutil.rmtree(scratch, ignore_errors=True)
            training.rename(scratch)
            lock_of(scratch).unlink()
    discard(stage, folder)
