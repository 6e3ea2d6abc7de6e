"""Text assignment against numbers of the original code, and what its draws promise."""

import pytest
import torch
from torch import Tensor

from albef.config import validate
from albef.data.record import Record
from albef.tasks.classification import RecordError
from albef.tasks.text_assignment import CLASSES, Config, Task, draw_pairs
from tests import original
from tests.data import toy
from tests.original import TOLERANCE
from tests.tasks import argmax_draws as argmax_draws

FIXTURE = original.fixture("text_assignment")


def original_task() -> Task:
    values = original.run_values("text_assignment", image_size=32, max_tokens=25)
    config = validate(Config, values, where="test")
    task = Task(config, original.fine_tuned_sizes(), original.vocabulary())
    original.load(task, "text_assignment", FIXTURE)
    return task.train()


def drawn(sequence: list[float]) -> tuple[Tensor, Tensor]:
    """The original's draws one after the other, (B,) for neither and (B,) for the side."""
    values = iter(sequence)
    rows = []
    for _ in range(4):
        first = next(values)
        rows.append((first, 1.0 if first <= 1 / 3 else next(values)))
    neither, side = torch.tensor(rows).unbind(1)
    return neither, side


@pytest.mark.usefixtures("argmax_draws")
def test_loss_and_gradients_equal_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.stack(drawn(FIXTURE["inputs/rand_sequence"].tolist()))
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: draws)
    task = original_task()
    batch = original.inputs(FIXTURE) | {"image_id": torch.arange(4)}
    loss = task(batch, epoch=0.0)["loss"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), FIXTURE["loss"], **TOLERANCE)
    original.compare_gradients(task, "text_assignment", FIXTURE, "")


def test_the_other_images_are_others() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    barred = ids[:, None] == ids[None, :]
    own = torch.arange(6)
    for _ in range(50):
        neither, second = torch.rand(6) < 0.5, torch.rand(6) < 0.5
        pairs = draw_pairs(torch.randn(6, 6), barred, neither, second)
        shown = torch.stack([pairs.first, pairs.second], dim=1)
        mine = ids[shown] == ids[:, None]
        assert pairs.valid.all()
        assert not mine[pairs.label == 2].any()
        assert (shown[pairs.label == 2, 0] != shown[pairs.label == 2, 1]).all()
        assert (pairs.first == own)[pairs.label == 0].all()
        assert (pairs.second == own)[pairs.label == 1].all()
        assert (mine[pairs.label != 2].sum(1) == 1).all()


def test_texts_without_enough_other_images_are_left_out() -> None:
    two = torch.eye(2, dtype=torch.bool)
    neither = torch.tensor([True, False])
    pairs = draw_pairs(torch.zeros(2, 2), two, neither, torch.tensor([False, True]))
    assert pairs.valid.tolist() == [False, True]
    task = original_task()
    batch = {name: tensor[:1] for name, tensor in original.inputs(FIXTURE).items()}
    batch["image_id"] = torch.arange(1)
    assert task(batch, epoch=0.0)["loss"].item() == 0


def records(count: int) -> list[Record]:
    return [toy.record(i, captions=("w7 w9",)) for i in range(count)]


def test_every_model_is_asked_the_same_for_any_batch() -> None:
    first, other = original_task().eval(), original_task().eval()
    with torch.no_grad():
        other.head.weight.mul_(-1)
    asked = ("key", "sentence", "answer", "first", "second")
    tables = [first.predict(records(30), 4), other.predict(records(30), 7)]
    assert {n: tables[0][n] for n in asked} == {n: tables[1][n] for n in asked}
    table = tables[0]
    assert set(table["answer"]) == set(CLASSES)
    for key, answer, left, right in zip(
        table["key"], table["answer"], table["first"], table["second"], strict=True
    ):
        assert left != right
        assert {"first": left, "second": right}.get(answer, key) == key
        assert answer != "neither" or key not in (left, right)
    assert all(sum(row) == pytest.approx(1) for row in table["probabilities"])
    assert first.validate(table).chance == pytest.approx(100 / 3)


def test_a_split_of_two_images_cannot_be_asked() -> None:
    with pytest.raises(RecordError, match="train needs at least three different images"):
        original_task().predict(records(2), 4)
