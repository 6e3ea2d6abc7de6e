"""Pre-train ALBEF on a validated dataset."""

import contextlib

import torch

from albef.data.shards import Shards
from albef.models.albef import settled
from albef.models.encoders import TimmConfig, TransformersConfig
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.tasks.pretraining import Config, Task
from albef.tasks.task import MAX_WORDS
from pipelines.launch import launch, sharing
from pipelines.stage import Stage, main
from pipelines.trainer import fit, provenance_of, publish


def run(stage: Stage) -> None:
    """Pre-train ALBEF and write the checkpoint ``pretrained`` and its curves."""
    config = stage.section("pretrain", Config)
    config = config.model_copy(update={"model": settled(config.model)})
    if isinstance(config.model.image, TimmConfig):
        from albef.models.encoders.timm_encoder import check_network  # timm takes seconds

        check_network(config.model.image)
    with contextlib.ExitStack() as alone:
        with sharing(stage) as device:
            torch.manual_seed(stage.seed)
            task = Task(config, _tokenizer(stage, config))
            start = task.load_start_weights()
            parents = {"start": start} if start else {}
            provenance, key = provenance_of(stage, config, **parents)
            folder = alone.enter_context(stage.scratch(key))
            stage.record |= fit(stage, task, device, folder)
        publish(stage, folder, "pretrained", task, provenance)
    learning = (p for p in task.parameters() if p.requires_grad)
    stage.record["parameters"] = sum(p.numel() for p in learning)


def _tokenizer(stage: Stage, config: Config) -> TextTokenizer:
    text, source = config.model.text, config.tokenizer.source
    if isinstance(text, TransformersConfig) and "tokenizer" not in config.model_fields_set:
        return TextTokenizer.load(text.transformers, public=True)
    if source != "corpus":
        return TextTokenizer.load(source)
    shards = Shards(stage.layout.data(config.dataset), "train")
    texts = {text.as_py() for captions in shards.captions for text in captions}
    if config.itm_captions:
        texts.update(*(shards.meta(i).get("itm_captions") or () for i in range(len(shards))))
    corpus = {clean_caption(text, MAX_WORDS) for text in texts}
    return TextTokenizer.train(corpus, config.tokenizer.vocab_size)


if __name__ == "__main__":
    main(run, launch)
