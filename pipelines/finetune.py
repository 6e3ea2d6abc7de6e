"""Fine-tune a run from its start checkpoint, with the values that the search chose."""

import contextlib
import json

import torch

from albef.config import choose
from albef.models.weights import load_checkpoint
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, main, run_of
from pipelines.trainer import fit, provenance_of, publish


def run(stage: Stage) -> None:
    """Fine-tune a run and write its checkpoint and curves."""
    searched, kind = run_of(stage)
    choice = (stage.layout.search(stage.key) / "choice.json").read_text()
    config = choose(searched, json.loads(choice))
    init = load_checkpoint(stage.layout.model(config.init))
    parents = {"parent": config.init, "parent_weights": init.digest}
    provenance, key = provenance_of(stage, config, **parents)
    with contextlib.ExitStack() as alone:
        with sharing(stage) as device:
            torch.manual_seed(stage.seed)
            task = kind.start(config, init)
            folder = alone.enter_context(stage.scratch(key))
            stage.record |= fit(stage, task, device, folder)
        publish(stage, folder, stage.key, task, provenance, init)


if __name__ == "__main__":
    main(run, launch)
