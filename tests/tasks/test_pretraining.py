"""What the pre-training step saves."""

import torch

from albef.tasks.pretraining import Task
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
