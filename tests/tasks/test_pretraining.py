"""What the pre-training step saves, and what its values decide."""

import pytest
import torch

from albef.tasks.pretraining import Config, Task
from tests.original import vocabulary
from tests.tasks.test_pretraining_parity import batch, config


def test_a_frozen_image_encoder_is_shared_with_the_momentum_model() -> None:
    torch.manual_seed(0)
    task = Task(config(0.4), vocabulary()).eval()
    given = batch()
    seen: list[int] = []
    momentum_model = task.model_m.model.image_encoder
    momentum_model.register_forward_hook(lambda module, args, states: seen.append(len(states)))
    losses = []
    for learns in (True, False):
        task.model.image_encoder.requires_grad_(learns)
        torch.manual_seed(1)
        losses.append(task(given, 1.0)["loss"].item())
    assert losses[0] == losses[1]
    assert seen == [4]


def _started(values: Config) -> Task:
    torch.manual_seed(0)
    return Task(values, vocabulary())


def test_queries_and_keys_that_read_the_image_first_can_start_larger() -> None:
    values = config(0.4)
    plain = _started(values).state_dict()
    larger = _started(values.model_copy(update={"query_scale": 2.0})).state_dict()
    scaled = {f"layer.0.crossattention.self.{part}.weight" for part in ("query", "key")}
    for name, tensor in larger.items():
        is_scaled = any(name.endswith(f"fusion_encoder.{part}") for part in scaled)
        assert torch.equal(tensor, plain[name] * (2 if is_scaled else 1)), name


def _loss(values: Config, epoch: float, name: str) -> float:
    task = _started(values).eval()
    task.end_step([task(batch(), 0.0)])
    torch.manual_seed(1)
    return task(batch(), epoch)[name].item()


def test_distillation_rises_to_its_weight_over_the_first_epoch() -> None:
    for name in ("itc", "mlm"):
        assert _loss(config(0.4), 0.0, name) == _loss(config(0.0), 0.0, name)
        half = pytest.approx(_loss(config(0.2), 1.0, name), rel=1e-6)
        assert _loss(config(0.4), 0.5, name) == half
        assert _loss(config(0.4), 3.0, name) == _loss(config(0.4), 1.0, name)
        assert _loss(config(0.4), 1.0, name) != half


def test_the_queue_counts_from_its_epoch_on() -> None:
    late = config(0.0).model_copy(update={"queue_from": 2.0})
    assert _loss(late, 2.0, "itc") == _loss(config(0.0), 2.0, "itc")
    assert _loss(late, 1.9, "itc") < _loss(config(0.0), 1.9, "itc")  # fewer candidates


def test_a_step_starts_with_a_temperature_in_its_bounds() -> None:
    task = _started(config(0.4))
    for value, kept in ((0.0, 0.001), (0.07, 0.07), (2.0, 0.5)):
        with torch.no_grad():
            task.temperature.fill_(value)
        task.begin_step()
        assert task.temperature.item() == pytest.approx(kept)
