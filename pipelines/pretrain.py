"""Pre-train ALBEF on a validated data set."""

import torch

from albef.data.shards import Shards
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.tasks.pretraining import Config, Task
from albef.tasks.ranking import MAX_WORDS
from pipelines.launch import launch
from pipelines.stage import Stage, main
from pipelines.trainer import (
    fingerprint,
    fit,
    origin_of,
    publish,
    training,
    verified_digest,
)


def run(stage: Stage) -> None:
    """Pre-train ALBEF and write the checkpoint ``pretrained`` and its curves."""
    config = stage.section("pretrain", Config)
    data_digest = verified_digest(stage, config.dataset)
    with training(stage) as device:
        torch.manual_seed(stage.seed)
        tokenizer = _tokenizer(stage, config)
        task = Task(config, tokenizer)
        provenance = {"dataset": config.dataset, "data": data_digest, "seed": stage.seed}
        if start := task.take_start():
            provenance["start"] = start
        values = config.model_dump()
        folder = stage.scratch(fingerprint({"values": values, **provenance}))
        stage.record |= fit(
            stage, task, config, dataset=config.dataset, device=device, folder=folder
        )
    publish(
        stage,
        folder,
        "pretrained",
        task,
        provenance | origin_of(stage, config.dataset),
        kind="pretraining",
        model=config.model,
        tokenizer=tokenizer,
        values=values,
    )
    stage.record["parameters"] = count(task)


def count(task: torch.nn.Module) -> int:
    """Parameters that learn."""
    return sum(p.numel() for p in task.parameters() if p.requires_grad)


def _tokenizer(stage: Stage, config: Config) -> TextTokenizer:
    if config.tokenizer.source != "corpus":
        return TextTokenizer.load(config.tokenizer.source)
    shards = Shards(stage.layout.data(config.dataset), "train")
    texts = {
        clean_caption(caption.as_py(), MAX_WORDS)
        for captions in shards.captions
        for caption in captions
    }
    return TextTokenizer.train(texts, config.tokenizer.vocab_size)


if __name__ == "__main__":
    main(run, launch)
