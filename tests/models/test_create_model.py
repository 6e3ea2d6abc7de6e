"""A model from plain values, with or without public weights."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import albef
from albef.config import ParamsError
from tests.conftest import tiny_model

VALUES: dict[str, Any] = tiny_model().model_dump()


def test_plain_values_and_a_config_give_the_same_model() -> None:
    models = []
    for config in (VALUES, tiny_model()):
        torch.manual_seed(0)
        models.append(albef.create_model(config, 80))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert models[0].sizes == tiny_model()


def test_a_checkpoint_fills_it(tiny_checkpoint: Path) -> None:
    checkpoint = albef.load_checkpoint(tiny_checkpoint)
    model = albef.create_model(checkpoint.model, checkpoint.tokenizer.vocab_size, pretrained=False)
    model.load_state_dict(checkpoint.part("model"))
    assert torch.equal(model.image_proj.weight, checkpoint.tensors["model.image_proj.weight"])


def test_public_weights_are_loaded_on_request(tmp_path: Path) -> None:
    public = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(public, tmp_path / "vit.safetensors")
    image = {"timm": "test_vit", "pretrained": str(tmp_path / "vit.safetensors")}
    equal = {}
    for pretrained in (True, False):
        model = albef.create_model({**VALUES, "image": image}, 80, pretrained=pretrained)
        ours = model.image_encoder.get_submodule("model").state_dict()
        equal[pretrained] = all(torch.equal(ours[name], public[name]) for name in public)
    assert equal == {True: True, False: False}


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ParamsError, match=r"create_model: .*embed_dim"):
        albef.create_model({**VALUES, "embed_dim": 0}, 80)
    with pytest.raises(ValueError, match="timm has no model tset_vit"):
        albef.create_model({**VALUES, "image": {"timm": "tset_vit"}}, 80)
