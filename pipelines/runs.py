"""What the stages that work on a run share: its kind, its Config and Task, its start."""

import importlib
from typing import Any, NamedTuple

from albef.config import ParamsError
from albef.models.weights import Checkpoint, load_checkpoint
from albef.tasks.task import RunConfig, RunTask
from pipelines.stage import PARAMS, Stage


class Run(NamedTuple):
    """An entry of ``tasks``."""

    config: RunConfig
    """Its values; ranges may be unfilled."""
    task: type[RunTask]
    """The class of its kind."""


def run_of(stage: Stage) -> Run:
    """The run that the stage works on, read by its kind: the file of that name in albef/tasks."""
    entry: Any = stage.params.get("tasks", {}).get(stage.key)
    if not isinstance(entry, dict) or "kind" not in entry:
        raise ParamsError(f"{PARAMS}: tasks.{stage.key} is missing, or has no kind")
    module = importlib.import_module(f"albef.tasks.{entry['kind']}")
    return Run(stage.section(f"tasks.{stage.key}", module.Config), module.Task)


def init_of(stage: Stage, config: RunConfig) -> Checkpoint:
    """The checkpoint that a run starts from."""
    return load_checkpoint(stage.layout.model(config.init))
