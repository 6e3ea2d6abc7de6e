"""Fine-tune a run from its start checkpoint, with the values that the search chose."""

import contextlib
import logging
import shutil
from pathlib import Path

import torch

from albef.config import choose
from albef.models.weights import load_checkpoint
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, main, read_json, run_of
from pipelines.trainer import TRIAL, fit, numeric_environment, parents_of, provenance_of, publish

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Fine-tune a run and write its checkpoint and curves."""
    searched, kind = run_of(stage)
    choice = read_json(stage.layout.search(stage.key) / "choice.json")
    config = choose(searched, choice)
    init = load_checkpoint(stage.layout.model(config.init))
    provenance, key = provenance_of(stage, config, **parents_of(config, init))
    with contextlib.ExitStack() as alone:
        with sharing(stage) as device:
            torch.manual_seed(stage.seed)
            task = kind.start(config, init)
            folder = alone.enter_context(stage.scratch(key))
            if stage.first:
                _take_trial(stage, folder, device)
            stage.record |= fit(stage, task, device, folder)
        publish(stage, folder, stage.key, task, provenance, init)


def _take_trial(stage: Stage, folder: Path, device: torch.device) -> None:
    """Record that ``folder`` has a trial's finished training, or remove it.

    It is removed if its last digits could differ from those of a training by this process.
    """
    trial = read_json(folder / TRIAL)
    if trial is None:
        return
    if trial["how"] == numeric_environment(stage, device):
        log.info("%s: reusing trial %d of the search", stage.address, trial["trial"] + 1)
        stage.record["reused"] = f"trial {trial['trial'] + 1} of search@{stage.key}"
    else:
        log.info("%s: training from the start: settings of the search differ", stage.address)
        shutil.rmtree(folder)
        folder.mkdir()


if __name__ == "__main__":
    main(run, launch)
