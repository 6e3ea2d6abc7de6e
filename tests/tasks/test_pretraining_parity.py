"""Our pre-training step against numbers of the original code, on its weights."""

from functools import partial

import pytest
from torch import Tensor

from albef.config import validate
from albef.losses.mlm import IGNORED
from albef.models.original import original_name
from albef.tasks.pretraining import Config, Task
from albef.training.optim import adamw
from tests import original as originals
from tests.original import TEXT_LAYERS, vocabulary
from tests.tasks import argmax_draws as argmax_draws

FIXTURE = originals.fixture("pretrain")
expect = partial(originals.expect, FIXTURE)
pytestmark = pytest.mark.usefixtures("argmax_draws")


def config(alpha: float) -> Config:
    return validate(
        Config,
        {
            "epochs": 1, "global_batch_size": 4, "precision": "float32", "lr": 1e-3, "min_lr": 0.0,
            "warmup_steps": 0, "dataset": "x", "alpha_itc": alpha, "alpha_mlm": alpha,
            "queue_size": 16, "temperature": 0.2,
            "tokenizer": {"source": "corpus", "vocab_size": 211},
            "model": originals.fine_tuned_sizes(image_size=48).model_dump(),
        },
        where="test",
    )  # fmt: skip


def original_task(alpha: float) -> Task:
    task = Task(config(alpha), vocabulary())
    originals.load(task, "pretraining", FIXTURE)
    return task.train()


def batch(suffix: str = "") -> dict[str, Tensor]:
    more = {"masked_ids": "mlm_input_ids", "mlm_labels": "mlm_labels"}
    given = originals.inputs(FIXTURE, suffix, **more)
    masked = given["mlm_labels"] != IGNORED
    positions = (~masked).int().argsort(dim=1, stable=True)[:, : int(masked.sum(1).max())]
    labels = given["mlm_labels"].gather(1, positions)
    return given | {"mlm_positions": positions, "mlm_labels": labels}


def state_matches(prefix: str, task: Task) -> None:
    originals.compare_state(task, "pretraining", FIXTURE, f"{prefix}/")


def losses_match(prefix: str, output: dict[str, Tensor]) -> None:
    for theirs, ours in (("ita", "itc"), ("itm", "itm"), ("mlm", "mlm")):
        expect(f"{prefix}/loss_{theirs}", output[ours])


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_losses_gradients_queue_and_momentum_model_equal_the_original(alpha: float) -> None:
    task = original_task(alpha)
    key = f"alpha{alpha:g}"
    task.begin_step()
    output = task(batch(), epoch=1.0)
    output["loss"].backward()
    task.end_step([output])
    losses_match(key, output)
    expect(f"{key}/image_feat_m", output["image_feat_m"])
    state_matches(key, task)
    originals.compare_gradients(task, "pretraining", FIXTURE, f"{key}/")
    for name, parameter in task.named_parameters():
        theirs = f"{key}/grads/{original_name(name, 'pretraining', TEXT_LAYERS)}"
        if theirs in FIXTURE and not name.endswith("key.bias"):
            expect(theirs, parameter.grad, rtol=1e-3)


def test_two_optimizer_steps_equal_the_original() -> None:
    task = original_task(0.4)
    optimizer = adamw(task, 1e-3, 0.02)
    for step, suffix in ((1, ""), (2, "_step2")):
        task.begin_step()
        output = task(batch(suffix), epoch=1.0)
        output["loss"].backward()
        task.end_step([output])
        optimizer.step()
        optimizer.zero_grad()
        prefix = f"two_adamw_steps_alpha0.4/step{step}"
        losses_match(prefix, output)
        state_matches(prefix, task)
        expect(f"{prefix}/state_after/temp", task.temperature.detach())
