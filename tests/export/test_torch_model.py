import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import albef
from albef.export.torch_model import model_of
from albef.models.matching import encode_texts, match_scores
from albef.models.weights import CheckpointError, load_checkpoint
from albef.tasks.retrieval import Task
from tests.conftest import CAPTIONS, tiny_config


def test_same_calls_and_numbers_as_the_export(
    tiny_checkpoint: Path, tiny_export: Path, pictures: list[bytes]
) -> None:
    here, there = albef.load(tiny_checkpoint), albef.runtime.load(tiny_export)
    texts = [*CAPTIONS, "a dog", "zebra!"]
    np.testing.assert_allclose(here.embed_image(pictures), there.embed_image(pictures), atol=1e-5)
    np.testing.assert_allclose(here.embed_text(texts), there.embed_text(texts), atol=1e-5)
    np.testing.assert_allclose(
        here.match_logits(pictures, texts), there.match_logits(pictures, texts), atol=1e-4
    )
    np.testing.assert_allclose(here.match(pictures, texts), there.match(pictures, texts), atol=1e-5)


def test_same_numbers_as_the_task_that_was_saved(
    tiny_checkpoint: Path, pictures: list[bytes]
) -> None:
    task = Task.restore(tiny_config(), load_checkpoint(tiny_checkpoint)).eval()
    model = albef.load(tiny_checkpoint)
    images = torch.from_numpy(np.stack([task.resize(picture) for picture in pictures]))
    ids, mask = task.texts(CAPTIONS)
    text_feat, text_states = encode_texts(task.model, ids, mask, 2)
    every = torch.ones(len(images), len(ids), dtype=torch.bool)
    scores = match_scores(task.model, task.itm_head, [images], text_states, mask, every)
    image_feat = task.model.image_feat(task.model.encode_image(images)).detach()
    np.testing.assert_allclose(model.embed_image(pictures), image_feat.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.embed_text(CAPTIONS), text_feat.numpy(), atol=1e-5)
    pairs = [(i, t) for i in range(len(images)) for t in range(len(ids))]
    logits = model.match_logits([pictures[i] for i, _ in pairs], [CAPTIONS[t] for _, t in pairs])
    np.testing.assert_allclose(logits[:, 1].reshape(scores.shape), scores.numpy(), atol=1e-4)


def test_what_cannot_be_used_is_refused(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)

    def without(start: str) -> dict[str, torch.Tensor]:
        return {n: t for n, t in checkpoint.tensors.items() if not n.startswith(start)}

    config, more = checkpoint.config, {"answer_decoder.bias": torch.zeros(1)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tensors": {**checkpoint.tensors, **more}}, r"left over: answer_decoder\.bias"),
        ({"tensors": without("model.text_proj.w")}, r"missing: model\.text_proj\.weight"),
        ({"tensors": without("itm_head")}, "no image-text matching"),
        ({"kind": "text_assignment"}, "of kind text_assignment"),
        ({"config": {**config, "values": {"max_tokens": 17}}}, "max_tokens is 17"),
        ({"config": {**config, "values": {"max_tokens": None}}}, "max_tokens is None"),
    ]
    for changed, message in cases:
        with pytest.raises(CheckpointError, match=message):
            model_of(dataclasses.replace(checkpoint, **changed))


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "albef.export.torch_model")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"albef\.load needs torch: install the extra train"):
        albef.load("models/retrieval")


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        albef.loda  # noqa: B018
