"""The fast step against the plain one: equal numbers, fewer operations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from albef.config import read_yaml
from albef.losses.mlm import IGNORED
from albef.models.matching import match_pairs
from albef.tasks import pretraining
from albef.tasks.pretraining import Task
from albef.tasks.task import Batch
from albef.training.optim import adamw
from tests.original import vocabulary
from tests.reference import pretraining as plain
from tests.tasks.test_pretraining_parity import config

PAPER = read_yaml(Path(__file__).parents[2] / "presets/paper-4m.yaml")["pretrain"]
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


def test_fast_and_plain_step_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, gradients, twin and queue in float32, at three steps of a training."""
    drawn: list[Any] = []

    def seen(*args: Any) -> Any:
        drawn.append(match_pairs(*args))
        return drawn[-1]

    monkeypatch.setattr(pretraining, "match_pairs", seen)
    torch.manual_seed(0)
    fast = Task(config(0.4), vocabulary()).train()
    slow = Task(config(0.4), vocabulary()).train()
    optimizer = adamw(fast, 1e-3, 0.0)
    for _ in range(3):
        slow.load_state_dict(fast.state_dict())
        given = batch(4, 48, 12, 211, 3)
        fast.begin_step()
        ours = fast(given, 1.0)
        ours["loss"].backward()
        fast.end_step([ours])
        plain.begin_step(slow)
        pairs = drawn[-1]
        negatives = pairs.neg_image_idx.tolist(), pairs.neg_text_idx.tolist()
        theirs = plain.losses(slow, given, 1.0, negatives)
        theirs["loss"].backward()
        plain.enqueue(slow.queue, theirs["image_feat_m"], theirs["text_feat_m"])
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


def test_a_student_that_misses_patches_learns_from_a_twin_that_sees_all() -> None:
    values = config(0.4).model_copy(update={"patch_dropout": 0.5})
    torch.manual_seed(0)
    task = Task(values, vocabulary()).train()
    given = batch(4, 48, 12, 211, 3)
    seen: list[int] = []
    for encoder in (task.model.image_encoder, task.model_m.model.image_encoder):
        encoder.register_forward_hook(lambda module, args, states: seen.append(states.shape[1]))
    task(given, 1.0)["loss"].backward()
    whole = (48 // values.model.image.patch_size) ** 2
    assert seen == [1 + whole // 2, 1 + whole]
