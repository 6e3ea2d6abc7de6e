"""Encoders with batch normalization, frozen parts, and the pooling of texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from albef.models.albef import ALBEF
from albef.models.bert import attention_bias
from albef.models.encoders import freeze
from albef.models.momentum import MomentumModel
from albef.models.start import start_encoders
from tests.conftest import CAPTIONS
from tests.models.encoders import sizes, text, write_xlm_roberta

SMALL: dict[str, dict[str, Any]] = {
    "resnet10t": {"channels": (8, 8, 16, 16)},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "repvit_m0_9": {"embed_dim": (8, 8, 16, 16), "depth": (1, 1, 1, 1)},
}
"""Networks with batch normalization and what makes them small."""


def section(name: str, **changed: object) -> dict[str, Any]:
    return {
        "timm": name, "pretrained": False, "image_size": 64, "arguments": SMALL[name], **changed
    }  # fmt: skip


def model_of(name: str, parts: tuple[str, ...] = ()) -> ALBEF:
    """A model whose statistics of batch normalization are not those of any batch."""
    torch.manual_seed(0)
    model = ALBEF(sizes(section(name)), 80)
    for module in model.image_encoder.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    freeze(model, parts)
    return model


@pytest.mark.parametrize("parts", [(), ("image_encoder.embeddings",), ("image_encoder",)])
@pytest.mark.parametrize("name", SMALL)
def test_states_do_not_depend_on_the_other_images_of_a_batch(
    name: str, parts: tuple[str, ...]
) -> None:
    model = model_of(name, parts).train()
    encoder = model.image_encoder
    before = {key: value.clone() for key, value in encoder.named_buffers()}
    images = torch.randn(4, 3, 64, 64)
    states = encoder(images)
    torch.testing.assert_close(encoder(images[1:2]), states[1:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.eval().image_encoder(images), states, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in encoder.named_buffers())
    if parts != ("image_encoder",):
        states.sum().backward()
        norms = [it for it in encoder.modules() if isinstance(it, _BatchNorm)]
        assert norms[-1].weight.grad is not None, "the scale of fixed statistics learns"


def test_frozen_parts_stay_in_eval_mode_with_their_dropout() -> None:
    torch.manual_seed(0)
    values = {"width": 16, "depth": 4, "fusion_depth": 2, "heads": 2, "intermediate": 32}
    model = ALBEF(sizes(text={**values, "max_positions": 16, "dropout": 0.5}), 80)
    ids, bias = torch.randint(5, 80, (2, 8)), attention_bias(torch.ones(2, 8))

    def states() -> torch.Tensor:
        return model.text_encoder(ids, bias)  # type: ignore[no-any-return]

    model.train()
    assert not torch.equal(states(), states())
    freeze(model, ["text_encoder.embeddings", "text_encoder.blocks.0"])
    encoder: Any = model.train().text_encoder
    assert not any(it.training for it in encoder.embeddings.modules())
    assert not any(it.training for it in encoder.layer[0].modules())
    assert encoder.layer[1].training
    assert torch.equal(encoder.embeddings(ids), encoder.embeddings(ids))
    freeze(model, ["text_encoder"])
    model.train()
    assert torch.equal(states(), states())


@pytest.mark.parametrize("counted", [True, False])
def test_a_file_of_weights_may_lack_the_counters(counted: bool, tmp_path: Path) -> None:
    name = "mobilenetv3_small_050"
    saved = model_of(name).image_encoder.get_submodule("model").state_dict()
    if not counted:
        saved = {key: it for key, it in saved.items() if not key.endswith("num_batches_tracked")}
    saved |= {"classifier.weight": torch.zeros(3, 5), "classifier.bias": torch.zeros(3)}
    save_file(saved, tmp_path / "net.safetensors")
    config = sizes(section(name, pretrained=str(tmp_path / "net.safetensors")))
    model = ALBEF(config, 80)
    assert start_encoders(model, config).keys() == {"image"}
    for key, tensor in model.image_encoder.get_submodule("model").state_dict().items():
        assert torch.equal(tensor, saved.get(key, torch.tensor(0))), key


def test_a_momentum_model_copies_the_statistics() -> None:
    student = model_of("resnet10t")
    momentum_model = MomentumModel(ALBEF(sizes(section("resnet10t")), 80))
    momentum_model.copy_from(student)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        states = student.train().encode_image(images)
        torch.testing.assert_close(momentum_model.train().model.encode_image(images), states)


def pooled_folder(folder: Path, **modes: bool) -> Path:
    write_xlm_roberta(folder, list(CAPTIONS))
    if modes:
        (folder / "1_Pooling").mkdir()
        values = {"word_embedding_dimension": 16} | {
            f"pooling_mode_{k}": v for k, v in modes.items()
        }
        (folder / "1_Pooling/config.json").write_text(json.dumps(values))
    return folder


def test_the_pooling_is_that_of_the_folder(tmp_path: Path) -> None:
    found = {
        "cls": pooled_folder(tmp_path / "none"),
        "cls ": pooled_folder(tmp_path / "first", cls_token=True, mean_tokens=False),
        "mean": pooled_folder(tmp_path / "mean", cls_token=False, mean_tokens=True),
    }
    for pooling, folder in found.items():
        values = {"transformers": str(folder), "pretrained": False, "max_positions": 16}
        config: Any = sizes(text=values, fusion={"depth": 1})
        assert config.text.pooling == pooling.strip()
        config = sizes(text=values | {"pooling": "cls"}, fusion={"depth": 1})
        assert config.text.pooling == "cls", "what is set counts more"


@pytest.mark.parametrize("modes", [{"max_tokens": True}, {"mean_tokens": True, "cls_token": True}])
def test_another_pooling_is_refused(modes: dict[str, bool], tmp_path: Path) -> None:
    folder = pooled_folder(tmp_path / "text", **modes)
    values = {"transformers": str(folder), "pretrained": False, "max_positions": 16}
    with pytest.raises(ValueError, match=r"pooling_mode_.*model\.text\.pooling"):
        sizes(text=values, fusion={"depth": 1})


def test_the_mean_is_over_all_tokens_of_a_text_and_no_padding() -> None:
    section_of_text = text("bert") | {"pooling": "mean"}
    torch.manual_seed(0)
    model = ALBEF(sizes(text=section_of_text, fusion={"depth": 1, "width": 16}), 80).eval()
    encoder: Any = model.text_encoder
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(5, 80, (2, 9))
    with torch.no_grad():
        states = model.encode_text(ids, mask)
        theirs = encoder.model(ids, mask).last_hidden_state
    for row, length in enumerate((9, 4)):
        torch.testing.assert_close(states[row, 0], theirs[row, :length].mean(0))
        torch.testing.assert_close(states[row, 1:length], theirs[row, 1:length])
