"""What the pre-training step saves, and what its values decide."""

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
