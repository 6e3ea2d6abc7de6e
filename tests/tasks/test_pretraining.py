"""The fast step against the plain one: equal numbers."""

import pytest
import torch

from albef.loading.reading import Batch
from albef.losses.itm import Negatives
from albef.tasks import matching
from albef.tasks.pretraining import Task
from albef.training.optim import adamw
from tests.original import vocabulary
from tests.reference import pretraining as plain
from tests.tasks import results
from tests.tasks.test_pretraining_parity import batch, config


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Negatives]:
    """What the fast step draws, step by step."""
    return results(monkeypatch, matching, "hard_negative_indices")


def tasks() -> tuple[Task, Task]:
    """Two with the same weights."""
    torch.manual_seed(0)
    fast = Task(config(0.4), vocabulary()).train()
    slow = Task(config(0.4), vocabulary()).train()
    slow.load_state_dict(fast.state_dict())
    return fast, slow


def stepped(
    fast: Task, slow: Task, given: Batch, epoch: float, drawn: list[Negatives]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The outputs of the fast and the plain step, backward done, with the same negatives."""
    fast.begin_step()
    ours = fast(given, epoch)
    ours["loss"].backward()
    fast.end_step([ours])
    plain.begin_step(slow)
    negatives = drawn[-1].image.tolist(), drawn[-1].text.tolist()
    theirs = plain.losses(slow, given, epoch, negatives)
    theirs["loss"].backward()
    plain.enqueue(slow.queue, theirs["image_feat_m"], theirs["text_feat_m"])
    return ours, theirs


def test_fast_and_plain_step_are_equal(drawn: list[Negatives]) -> None:
    """Losses, gradients, momentum model and queue in float32, at three steps of a training."""
    fast, slow = tasks()
    optimizer = adamw(fast, 1e-3, 0.0)
    for _ in range(3):
        slow.load_state_dict(fast.state_dict())
        ours, theirs = stepped(fast, slow, batch(), 1.0, drawn)
        found = {name: ours[name] for name in theirs}
        torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
        gradients = [
            {name: p.grad for name, p in task.named_parameters() if p.requires_grad}
            for task in (fast, slow)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(fast.state_dict(), slow.state_dict(), rtol=1e-4, atol=2e-5)
        optimizer.step()
        fast.zero_grad()
        slow.zero_grad()


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
