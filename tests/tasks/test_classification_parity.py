"""Visual entailment and NLVR2 against numbers of the original code, on its weights."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import validate
from tests import original
from tests.original import TOLERANCE

KINDS = ("entailment", "nlvr2")


def original_task(kind: str, fixture: dict[str, Tensor], alpha: float) -> Any:
    module = import_module(f"albef.tasks.{kind}")
    values = original.run_values(kind, alpha=alpha, momentum=0.995, image_size=32, max_tokens=25)
    config = validate(module.Config, values, where="test")
    task = module.Task(config, original.fine_tuned_sizes(), original.vocabulary())
    original.load(task, kind, fixture)
    return task.train()


def batch(task: Any, fixture: dict[str, Tensor]) -> dict[str, Tensor]:
    given = original.inputs(fixture, label="targets")
    image = given["image"].unflatten(0, (task.images, -1))  # all first ones come first
    return given | {"image": image.transpose(0, 1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_gradients_and_momentum_model_equal_the_original(kind: str, alpha: float) -> None:
    fixture = original.fixture(kind)
    task = original_task(kind, fixture, alpha)
    key = f"distill_alpha{alpha:g}"
    task.begin_step()
    loss = task(batch(task, fixture), epoch=1.0)["loss"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), fixture[f"{key}/loss"], **TOLERANCE)
    original.compare_state(task, kind, fixture, f"{key}/")
    original.compare_gradients(task, kind, fixture, f"{key}/")


def test_the_weight_of_the_momentum_model_rises_in_nlvr2_alone() -> None:
    tasks = [original_task(kind, original.fixture(kind), 0.4) for kind in KINDS]
    assert [task.alpha(0.5) for task in tasks] == pytest.approx([0.4, 0.2])
    assert [task.alpha(3.0) for task in tasks] == pytest.approx([0.4, 0.4])
