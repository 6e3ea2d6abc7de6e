"""Fine-tune a run from its start, with the values that the search chose."""

import json

from albef.config import choose
from pipelines.launch import launch
from pipelines.provenance import origin
from pipelines.runs import init_of, run_of
from pipelines.stage import Stage, main
from pipelines.trainer import (
    fingerprint,
    fit,
    publish,
    seed_everything,
    training,
    verified_digest,
)


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
        provenance = {
            "dataset": config.dataset,
            "data": data,
            "seed": stage.seed,
            "parent": config.init,
            "parent_weights": init.digest,
        }
        augment = stage.params["datasets"][config.dataset]["augment"]
        values = config.model_dump()
        folder = stage.scratch(fingerprint({"values": values, "augment": augment} | provenance))
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
        provenance | origin(stage, config.dataset, init),
        kind=config.kind,
        model=task.sizes,
        tokenizer=task.tokenizer,
        values=values,
        facts=task.facts(),
    )


if __name__ == "__main__":
    main(run, launch)
