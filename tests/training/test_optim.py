"""What is decayed; the learning rate by step, and the original's, against its own numbers."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.config import ParamsError
from albef.losses.distill import ramp
from albef.training.optim import (
    Muon,
    adamw,
    cosine,
    optimizer_of,
    original,
    rate,
)
from tests.conftest import tiny_config, tiny_task

ORIGINAL: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "text_and_schedule.json").read_text()
)["schedules"]


def test_biases_and_norms_are_not_decayed_and_the_temperature_is_as_in_the_original() -> None:
    task = tiny_task()
    names = {id(p): name for name, p in task.named_parameters()}
    decayed, plain = (
        {names[id(p)] for p in group["params"]} for group in adamw(task, 1e-3, 0.02).param_groups
    )
    assert {"temperature", "model.image_encoder.vit.cls_token"} <= decayed
    assert "model.text_encoder.embeddings.word_embeddings.weight" in decayed
    assert all(name.endswith("bias") or "norm" in name.lower() for name in plain)
    assert not any(name.startswith("model_m") for name in decayed | plain)


def test_muon_moves_the_matrices_of_layers_and_resumes_from_its_state() -> None:
    task, other = tiny_task(), tiny_task()
    muon = Muon(task, 1e-2, 0.0)
    names = {p: name for name, p in task.named_parameters()}
    matrices, rest, plain = ({names[p] for p in g["params"]} for g in muon.param_groups)
    assert "model.image_encoder.vit.blocks.0.attn.qkv.weight" in matrices
    assert {"temperature", "model.text_encoder.embeddings.word_embeddings.weight"} <= rest
    assert "model.image_proj.weight" in rest
    assert not matrices & rest | (matrices | rest) & plain

    def move(parts: dict[str, torch.nn.Parameter], optimizer: Muon, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for parameter in parts.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()

    parts = {n: p for n, p in task.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in parts.items()}
    move(parts, muon, 1)
    qkv = "model.image_encoder.vit.blocks.0.attn.qkv.weight"
    moved = parts[qkv].detach() - before[qkv]
    assert math.isclose(moved.square().mean().sqrt().item(), 1e-2, rel_tol=0.25)
    assert not torch.equal(parts["temperature"], before["temperature"])

    other.load_state_dict(task.state_dict())
    again = Muon(other, 1e-2, 0.0)
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    others = {n: p for n, p in other.named_parameters() if p.requires_grad}
    move(parts, muon, 2)
    move(others, again, 2)
    assert all(torch.equal(p, others[name]) for name, p in parts.items())


def test_only_a_muon_without_momentum_takes_steps_back() -> None:
    for momentum, returns in ((0.0, True), (0.9, False)):
        task = tiny_task(optimizer="muon", muon_momentum=momentum, weight_decay=0.0)
        muon = optimizer_of(task, task.config)
        matrix = task.model.text_encoder.layer[0].attention.self.query.weight
        before = matrix.detach().clone()
        a, b = torch.randn(2, *matrix.shape, generator=torch.Generator().manual_seed(0))
        for gradient in (a, b, -a, -b):
            matrix.grad = gradient
            muon.step()
        assert torch.allclose(matrix, before, atol=1e-6) is returns
    with pytest.raises(ParamsError, match="needs optimizer: muon"):
        tiny_config(muon_momentum=0.9)


def test_warm_up_ends_at_the_base_rate_and_the_cosine_at_the_lowest() -> None:
    rates = [cosine(step, 100, lr=1e-3, min_lr=1e-5, warmup_steps=10) for step in (9, 10, 55, 100)]
    assert rates == pytest.approx([1e-3, 1e-3, (1e-3 + 1e-5) / 2, 1e-5])


def test_the_staircase_equals_each_of_the_originals_trainings() -> None:
    for steps, training in itertools.product((250, 5000), ORIGINAL.values()):
        values = training["yaml"]["schedular"]
        expected = training[f"iters_per_epoch_{steps}"]
        changes = {int(at): lr for at, lr in expected["lr_used_in_epoch0_by_iteration"].items()}
        schedule = {name: values[name] for name in ("epochs", "lr", "min_lr")}
        schedule["warmup_steps"] = 100 * values["warmup_epochs"]
        now = 0.0
        for step in range(steps):
            now = changes.get(step, now)
            assert math.isclose(original(step, steps, **schedule), now, rel_tol=1e-12), step
        for epoch, lr in enumerate(expected["lr_used_in_epoch"]):
            for step in (epoch * steps, (epoch + 1) * steps - 1):
                found = original(step, steps, **schedule)
                assert lr is None or math.isclose(found, lr, rel_tol=1e-12)


def test_the_ramp_of_distillation_equals_the_original() -> None:
    ramped = [
        v["alpha"] for v in ORIGINAL.values() if v.get("alpha", {}).get("warm_up_ramp_in_epoch0")
    ]
    assert len(ramped) == 6
    for expected in ramped:
        for step in (0, 125, 249):
            alpha = expected["alpha"] * ramp(step / 250)
            assert alpha == pytest.approx(expected[f"alpha_epoch0_iter_{step}_of_250"])
        assert expected["alpha"] * ramp(251 / 250) == expected["alpha_epoch>0"]


def test_the_schedule_is_a_value() -> None:
    smooth = tiny_config().model_copy(update={"warmup_steps": 100, "lr": 1e-4, "epochs": 2})
    stairs = smooth.model_copy(update={"schedule": "original"})
    assert rate(smooth, 50, 250) == pytest.approx(1e-5 + 9e-5 * 51 / 100)
    assert rate(stairs, 50, 250) == pytest.approx(1e-5)
    assert rate(stairs, 101, 250) == pytest.approx(1e-4)
    with pytest.raises(ParamsError, match="warmup_steps 250 is not a multiple of 100"):
        tiny_config(schedule="original", warmup_steps=250)


@pytest.mark.parametrize("momentum", [0.5, 0.95])
def test_muon_moves_along_the_orthogonal_matrix_by_the_rate_and_decays(momentum: float) -> None:
    task = tiny_task()
    names = (
        "text_encoder.layer.0.intermediate.dense.weight",
        "image_encoder.vit.blocks.1.mlp.fc2.weight",
        "image_encoder.vit.blocks.1.attn.qkv.weight",
    )
    matrices = [task.model.get_parameter(name) for name in names]
    lr, decay = 0.01, 5.0
    muon = Muon(task, lr, decay, momentum)
    draws = torch.Generator().manual_seed(0)
    averages = [torch.zeros_like(matrix) for matrix in matrices]
    for _ in range(4):
        before = [matrix.detach().clone() for matrix in matrices]
        for matrix, average in zip(matrices, averages, strict=True):
            matrix.grad = torch.randn(matrix.shape, generator=draws)
            average.lerp_(matrix.grad, 1 - momentum)
        muon.step()
        for matrix, average, start in zip(matrices, averages, before, strict=True):
            moved = (1 - lr * decay) * start - matrix.detach()
            ahead = matrix.grad.lerp(average, momentum)  # Nesterov
            u, _, v = torch.linalg.svd(ahead, full_matrices=False)
            assert torch.cosine_similarity(moved.flatten(), (u @ v).flatten(), dim=0) > 0.95
            assert moved.square().mean().sqrt().item() == pytest.approx(lr, rel=0.25)
