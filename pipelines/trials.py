"""Trials of a search with Optuna; an interrupted search resumes."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna import TrialPruned

from albef.config import choose, ranges
from albef.data.shards import ShardError
from albef.distributed import world
from albef.models.weights import Checkpoint, load_checkpoint
from albef.search.samplers import SearchConfig
from albef.search.study import DATABASE, Report, Study, StudyError, TrialFailedError, TrialRequest
from albef.search.summary import best_of, evidence, rows
from albef.tasks.task import RunConfig, RunTask
from albef.training.loop import NonFiniteError
from albef.training.mirror import Mirror
from albef.training.state import CheckpointLockedError, CheckpointMismatchError
from pipelines.launch import sharing
from pipelines.stage import Stage, memory_error, run_of, verified_digest
from pipelines.trainer import EndedEarlyError, discard, fingerprint, fit, mirror_of

_STUDY = "study.db"
"""File of the study in the scratch folder of a search."""
log = logging.getLogger("albef")


Write = Callable[[Mapping[str, float], Mapping[str, Any]], None]
"""Writer of the chosen values and the trials."""


def search_ranges(stage: Stage, write: Write) -> None:
    """Search the ranges of a run and write the choice and the trials."""
    config, kind = run_of(stage)
    settings = stage.section("search", SearchConfig)
    data = verified_digest(stage, config.dataset)
    init = load_checkpoint(stage.layout.model(config.init))
    values = {"values": config.model_dump(), "search": settings.model_dump()}
    key = fingerprint({**values, "seed": stage.seed, "data": data, "init": init.digest})
    alone = DATABASE not in os.environ
    with stage.scratch(key, alone=alone) as folder, sharing(stage) as device:
        search = _Search(stage, config, kind, settings, init, folder, device)
        if not stage.first:
            search.follow()
            return
        if (mirror := search.mirror) and not search.file.exists() and mirror.names(_STUDY):
            mirror.fetch(_STUDY, search.file)
        name = f"{stage.address}-{key[:16]}"
        with contextlib.closing(
            Study(search.file, name, settings, ranges(config), stage.seed)
        ) as study:
            search.run(study)
            search.conclude(study, write)


@dataclass(frozen=True)
class _Search:
    """A search whose trials are trained on a device, each in its part of the scratch folder."""

    stage: Stage
    config: RunConfig
    kind: type[RunTask]
    settings: SearchConfig
    init: Checkpoint
    folder: Path
    device: torch.device

    @property
    def file(self) -> Path:
        return self.folder / _STUDY

    @property
    def mirror(self) -> Mirror | None:
        """Mirror of the scratch folder, in the first process."""
        return mirror_of(self.stage, self.folder)

    def run(self, study: Study) -> None:
        """Run trials until all have ended, in the process that owns the study."""
        requests: list[TrialRequest] = []

        def train(request: TrialRequest, report: Report) -> None:
            def report_and_mirror(epoch: int, value: float) -> bool:
                ends = report(epoch, value)
                self._mirror_study()
                return ends

            requests.append(request)
            values = ", ".join(f"{name} {value:.3g}" for name, value in request.values.items())
            log.info("trial %d of %d: %s", request.position + 1, self.settings.trials, values)
            _send(request)
            self._train(request, report_and_mirror)

        while study.run_trial(train):
            while requests:
                discard(self.stage, self._folder(requests.pop()))
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
        stage, folder = self.stage, self._folder(request)
        label = f"{stage.address} trial {request.position + 1}"

        def report_primary(epoch: int, metrics: dict[str, float]) -> bool:
            return report(epoch, metrics[self.kind.primary])

        config = choose(self.config, request.values)
        if config.epochs != self.settings.epochs:
            config = config.model_copy(update={"epochs": self.settings.epochs, "keep_epochs": ()})
        try:
            torch.manual_seed(stage.seed)
            task = self.kind.start(config, self.init)
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

    def _folder(self, request: TrialRequest) -> Path:
        """Return the folder of a trial's training, in which a retried trial resumes."""
        return self.folder / f"trial-{request.position}"

    def conclude(self, study: Study, write: Write) -> None:
        """Write the chosen values and the trials."""
        stage, ended = self.stage, study.ended
        start = {name: range_.start for name, range_ in ranges(self.config).items()}
        try:
            best = best_of(ended, start)
        except ValueError:
            discard(stage, self.folder)  # the cause may be fixed: the next search starts anew
            raise
        summary = evidence(ended, start, self.kind.primary)
        write(best.params, {"evidence": summary, "trials": rows(ended, start)})
        log.info("chosen: %s (%s %.2f)", json.dumps(best.params), summary["metric"], best.value)
        stage.record |= {"trials": len(ended), "search": summary}
        discard(stage, self.folder)

    def _mirror_study(self) -> None:
        if (mirror := self.mirror) and self.file.exists():
            mirror.push(self.file, _STUDY, 1)
            mirror.wait()


def _send(request: TrialRequest | None) -> TrialRequest | None:
    """Send the first process' next trial to the others and return it; None is the end."""
    return world().broadcast(lambda: request)
