"""Fine-tune a run from its start, with the values that the search chose."""

import json

from albef.config import choose
from pipelines.launch import launch
from pipelines.runs import init_of, run_of
from pipelines.stage import Stage, main
from pipelines.trainer import (
    fit,
    origin_of,
    provenance_of,
    publish,
    seed_everything,
    training,
    verified_digest,
)
from pipelines.trial_reuse import take_trial


def run(stage: Stage) -> None:
    """Fine-tune a run and write its checkpoint and curves."""
    searched, kind = run_of(stage)
    choice = json.loads((stage.layout.search(stage.key) / "choice.json").read_text())
    config = choose(searched, choice)
    data = verified_digest(stage, config.dataset)
    with training(stage) as device:
        init = init_of(stage, config)
        seed_everything(stage.seed)
        task = kind.start(config, init)
        provenance, key = provenance_of(stage, config, data, init)
        folder = stage.scratch(key)
        take_trial(stage, folder, device)
        stage.record |= fit(
            stage,
            task,
            config,
            dataset=config.dataset,
            device=device,
            folder=folder,
            label=stage.address,
        )
    publish(
        stage,
        folder,
        stage.key,
        task,
        provenance | origin_of(stage, config.dataset, init),
        kind=config.kind,
        model=task.sizes,
        tokenizer=task.tokenizer,
        values=config.model_dump(),
        facts=task.facts(),
    )


if __name__ == "__main__":
    main(run, launch)
