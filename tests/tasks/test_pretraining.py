"""The fast step against the plain one: equal numbers, fewer operations."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from albef.config import read_preset, validate
from albef.loading.reading import Batch
from albef.losses.itm import Negatives
from albef.losses.mlm import IGNORED
from albef.tasks import matching, pretraining
from albef.tasks.pretraining import Task
from albef.training.optim import adamw
from tests.original import vocabulary
from tests.reference import pretraining as plain
from tests.tasks import results
from tests.tasks.test_pretraining_parity import config

PRESET = Path(__file__).parents[2] / "presets/paper-4m.yaml"
PAPER = validate(pretraining.Config, read_preset(PRESET)["pretrain"], where="paper").model_dump()
NEGATIVES = ([1, 2, 3, 4, 5, 6, 7, 0], [7, 0, 1, 2, 3, 4, 5, 6])


def batch(size: int, side: int, length: int, vocab: int, masked: int) -> Batch:
    """Texts of several lengths with as many masked tokens at most as ``masked``."""
    ids = torch.randint(5, vocab, (size, length))
    mask = torch.ones_like(ids)
    for row in range(size):
        mask[row, length - row % 3 :] = 0
    positions = torch.stack([torch.randperm(length - 3)[:masked] + 1 for _ in range(size)])
    labels = ids.gather(1, positions)
    labels[0, 1:] = IGNORED
    return {
        "image": torch.randn(size, 3, side, side),
        "ids": ids * mask,
        "text_mask": mask,
        "masked_ids": ids.scatter(1, positions, 4) * mask,
        "mlm_positions": positions,
        "mlm_labels": labels,
    }


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
    """Losses, gradients, twin and queue in float32, at three steps of a training."""
    fast, slow = tasks()
    optimizer = adamw(fast, 1e-3, 0.0)
    for _ in range(3):
        slow.load_state_dict(fast.state_dict())
        ours, theirs = stepped(fast, slow, batch(4, 48, 12, 211, 3), 1.0, drawn)
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


def test_the_fast_step_counts_less_than_nine_tenths_of_the_plain_ones_flops() -> None:
    """At the paper's size, 256 pixels and 25 tokens, forward and backward; nothing is computed."""
    words = PAPER["tokenizer"]["vocab_size"]
    values = config(0.4).model_dump() | {"model": PAPER["model"], "queue_size": 64}
    with torch.device("meta"):
        task = Task(pretraining.Config(**values), vocabulary(words)).train()
        given = {name: tensor.to("meta") for name, tensor in batch(8, 256, 25, words, 4).items()}
    counts = []
    for step in (lambda: task(given, 1.0), lambda: plain.losses(task, given, 1.0, NEGATIVES)):
        with FlopCounterMode(display=False) as counter:
            step()["loss"].backward()
        counts.append(counter.get_total_flops())
    assert counts[0] <= 0.87 * counts[1]


def test_a_frozen_image_encoder_is_shared_with_the_momentum_model() -> None:
    torch.manual_seed(0)
    task = Task(config(0.4), vocabulary()).eval()
    given = batch(4, 48, 12, 211, 3)
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
