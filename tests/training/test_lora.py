"""LoRA: what learns, what is saved, and what is published."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.config import ParamsError, Range, choose, ranges
from albef.loading.reading import to_device
from albef.models.encoders import freeze
from albef.models.weights import load_strict
from albef.tasks import retrieval
from albef.tasks.task import LoraConfig
from albef.training.lora import adapt, merged
from albef.training.optim import adamw
from albef.training.state import kept
from tests.conftest import CAPTIONS, tiny_config, tiny_task
from tests.models.encoders import image, sizes, text
from tests.tasks.test_contract import SMOKE, collated, pretrained, start, stepped
from tests.tasks.test_contract import folder as folder
from tests.training.test_loop import Killed, dying
from tests.training.test_loop import data as data
from tests.training.toy_training import train_toy

LORA = LoraConfig(rank=2, dropout=0.1)


def tiny(**values: object) -> Any:
    torch.manual_seed(3)
    task = tiny_task()
    task.config = task.config.model_copy(update={"epochs": 2, "lora": LORA, **values})
    return task


@pytest.mark.parametrize("run", ["pretraining", *SMOKE["tasks"]])
def test_a_step_of_every_kind_moves_adapters_and_what_is_not_an_encoder(
    run: str, folder: Path
) -> None:
    task: Any = pretrained() if run == "pretraining" else start(folder, run)
    batch = to_device(collated(folder, task), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    adapt(task.train(), LORA)
    alike = {name for name in before if not name.startswith("model_m.")}
    assert all(torch.equal(merged(task)[name], before[name]) for name in alike)
    for _ in range(
        2
    ):  # the second matrix of an adapter starts at 0, and stops the first's gradient
        stepped(task, adamw(task, 1e-3, 0.0), batch)
    after = merged(task)
    moved = {name for name in alike if not torch.equal(after[name], before[name])}
    encoders = {name for name in moved if "_encoder." in name}
    assert encoders
    assert all(name.endswith(("qkv.weight", "query.weight", "value.weight")) for name in encoders)
    assert moved - encoders >= {name for name in alike if "head." in name and "_m." not in name}
    for name in before.keys() - alike:  # the momentum model is a step behind
        same = torch.equal(after[name], after[name.replace("model_m.model.", "model.")])
        assert same is (name.replace("model_m.model.", "model.") not in moved)
    fresh: Any = pretrained() if run == "pretraining" else start(folder, run)
    load_strict(fresh, after, where="merged")


@pytest.mark.parametrize(
    "model",
    [
        {},  # the built-in encoders
        {"image": image("eva02_tiny_patch14_224")},
        {"text": text("modernbert"), "fusion": {"depth": 1, "width": 24}},
    ],
)
def test_adapters_learn_and_merged_weights_compute_what_they_do(model: dict[str, Any]) -> None:
    config = sizes(**model)

    def made() -> Any:
        torch.manual_seed(0)
        return retrieval.Task(tiny_config(), config, tiny().tokenizer).eval()

    task, plain = made(), made()
    adapt(task, LoraConfig(rank=2))
    side = config.image.image_size
    images, texts = torch.randn(2, 3, side, side), task.texts(CAPTIONS)
    encoded = task.model.encode_image(images), task.model.encode_text(*texts)
    sum(states.square().sum() for states in encoded).backward()
    learning = {n: p for n, p in task.model.named_parameters() if ".lora_" in n}
    assert any(name.startswith("image_encoder") for name in learning)
    assert all(p.grad is not None for n, p in learning.items() if "fusion" not in n)
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.1)
        plain.load_state_dict(merged(task.eval()))
        for ours, theirs in ((task.model, plain.model), (task.model_m.model, plain.model_m.model)):
            torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images))
            torch.testing.assert_close(ours.encode_text(*texts), theirs.encode_text(*texts))


def test_training_checkpoints_hold_what_learns_and_a_killed_run_ends_with_the_same_bytes(
    data: Path, tmp_path: Path
) -> None:
    whole = tiny(keep_epochs=(1,))
    train_toy(whole, data, tmp_path / "whole", every=3)
    task = tiny(keep_epochs=(1,))
    with pytest.raises(Killed):
        train_toy(task, data, tmp_path / "cut", dying(4), every=3)
    saved = torch.load(max((tmp_path / "cut").glob("state-*.pt")), weights_only=True)["task"]
    assert not any("_encoder." in name and ".lora_" not in name for name in saved)
    assert saved.keys() == task.state_dict().keys()
    resumed = tiny(keep_epochs=(1,))
    train_toy(resumed, data, tmp_path / "cut", every=3)
    ended = merged(whole), merged(resumed)
    assert ended[0].keys() == ended[1].keys() == tiny_task().state_dict().keys()
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    (epoch,) = kept(tmp_path / "whole", [1]).values()
    name = "model.text_encoder.layer.0.attention.self.query.weight"
    from safetensors.torch import load_file

    assert not torch.equal(merged(whole, load_file(epoch))[name], ended[0][name])


def test_adapters_are_of_the_named_layers_of_encoders_that_learn() -> None:
    def adapted(task: Any, *targets: str) -> set[str]:
        adapt(task, LoraConfig(targets=targets or None))
        return {name.split(".lora_")[0] for name in task.state_dict() if name.startswith("model.")}

    cross = adapted(tiny(), "crossattention.self.key", "fc1")
    assert {name.rpartition(".")[2] for name in cross} >= {"key", "fc1"}
    assert not any(".attention." in name for name in cross)
    task = tiny()
    task.model.image_encoder.requires_grad_(False)
    assert not any("image_encoder" in name for name in adapted(task))


def test_wrong_values_are_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match=r"lora\.targets: .*'qvk'; did you mean qkv\?"):
        adapt(tiny(), LoraConfig(targets=("query", "qvk")))
    task = tiny()
    task.model.requires_grad_(False)
    with pytest.raises(ParamsError, match=r"lora\.targets.*freeze"):
        adapt(task, LORA)
    del task.model
    with pytest.raises(ParamsError, match=r"tasks\.retrieval has no image_encoder.*remove `lora`"):
        adapt(task, LORA)  # as in a kind of a user
    with pytest.raises(ValueError, match="the task has no text_encoder"):
        freeze(task, ["text_encoder.blocks.0"])
    for rank in (0.5, {"low": 0.0, "high": 8.0, "log": False, "start": 4.0}):
        with pytest.raises(ParamsError, match=r"lora: rank must be at least 1"):
            tiny_config(lora={"rank": rank})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ParamsError, match=r"pip install '\.\[lora\]'"):
        adapt(tiny(), LORA)


def test_a_rank_can_be_searched_and_is_rounded() -> None:
    config = tiny_config(lora={"rank": {"low": 1, "high": 8, "log": True, "start": 4}})
    assert ranges(config) == {"lora.rank": Range(low=1, high=8, log=True, start=4)}
    task = tiny()
    adapt(task, choose(config, {"lora.rank": 2.7}).lora)
    shapes = {t.shape[0] for n, t in task.state_dict().items() if "lora_A" in n}
    assert shapes == {3}


def test_an_adapter_adds_its_product_times_alpha_over_rank() -> None:
    task = tiny_task()
    layer = "text_encoder.layer.0.attention.self.query"
    before = task.model.get_parameter(f"{layer}.weight").detach().clone()
    adapt(task, LoraConfig(rank=4, alpha=12))
    first, second = (
        task.model.get_parameter(f"{layer}.lora_{part}.default.weight") for part in "AB"
    )
    assert first.shape[0] == second.shape[1] == 4
    with torch.no_grad():
        second.normal_()
    added = merged(task)[f"model.{layer}.weight"] - before
    torch.testing.assert_close(added, 12 / 4 * (second @ first).detach(), rtol=1e-4, atol=1e-5)
