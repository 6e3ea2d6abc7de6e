import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import albef
from albef.export.torch_model import model_of
from albef.models.weights import CheckpointError, load_checkpoint
from tests.tasks.test_contract import pretrained, saved


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


def test_a_checkpoint_of_pretraining_is_used(tmp_path: Path) -> None:
    folder = saved(tmp_path, pretrained()) / "pretrained"
    assert "model" in load_checkpoint(folder).config["values"]
    assert len(model_of(load_checkpoint(folder)).embed_text(["a squid"])) == 1


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "albef.export.torch_model")
    monkeypatch.delitem(vars(albef), "load", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"albef\.load needs torch: install the extra train"):
        albef.load("models/retrieval")


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        albef.loda  # noqa: B018
