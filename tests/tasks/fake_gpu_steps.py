"""Every kind on a fake GPU; test_fake_gpu.py runs this file in a process of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensorMode,
)
from torch.nn import functional

from albef.data.shards import Shards
from albef.export.torch_model import model_of
from albef.loading.reading import to_device
from albef.models.weights import load_checkpoint
from albef.tasks.task import LoraConfig
from albef.training.lora import adapt
from albef.training.optim import Muon, adamw
from pipelines.fake_gpu import DEVICE, move
from tests.conftest import save_task
from tests.fake_gpu import SLOWER, Operations, ValuedGpu, named
from tests.tasks.test_contract import RUNS, collated, data, folder, pretrained, start, stepped
from tests.tasks.test_encoders import MODEL

__all__ = ["folder"]  # a fixture


def on_device(folder: Path, run: str) -> tuple[FakeTensorMode, Any, dict[str, Tensor]]:
    """The mode in which all is fake, a task on a GPU, and a batch there."""
    model = {"model": MODEL} if run == "other encoders" else {}
    task: Any = start(folder, run) if run in RUNS else pretrained(**model)
    if run == "lora":
        adapt(task, LoraConfig())
    batch = collated(folder, task)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    move(mode, task.train())
    with mode, torch.no_grad():
        fake = {name: mode.from_tensor(tensor) for name, tensor in batch.items()}
        with Operations(copies=True):  # a loader pins the memory of batches
            return mode, task, to_device(fake, DEVICE)


@pytest.mark.parametrize("run", ["pretraining", "other encoders", *RUNS, "lora"])
def test_a_step_stays_on_its_device(run: str, folder: Path) -> None:
    mode, task, batch = on_device(folder, run)
    with mode:
        assert {tensor.device for tensor in batch.values()} == {DEVICE}
        ways: list[Any] = [(adamw, (torch.float16,))]
        if run in ("pretraining", "other encoders"):
            ways += [(adamw, ()), (Muon, (torch.bfloat16,))]
        for optimizer, dtypes in ways:
            autocast = torch.autocast(DEVICE.type, *dtypes, enabled=bool(dtypes))
            scaler = torch.amp.GradScaler(DEVICE.type, enabled=torch.float16 in dtypes)
            with autocast, Operations(*dtypes) as operations:
                outputs = stepped(task, optimizer(task, 1e-3, 0.02), batch, scaler)
            assert outputs["loss"].device == DEVICE
            # docs/explanation/determinism.md lists what `deterministic` slows down.
            slower = named(operations, SLOWER)
            listed = {"index_add", "index_put_", "convolution_backward"}
            assert slower <= listed | ({"index_put"} if run == "other encoders" else set())


FAULTS: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda x: x + x.cpu().to(x.device), "copies between devices"),
    (lambda x: x + torch.multinomial(x.exp(), 1), "multinomial waits"),
    (lambda x: x.double().float(), "computes in .*float64"),
    (lambda x: x.cumsum(0), "cumsum has no deterministic form"),
]
"""What :class:`Operations` finds; torch itself finds others, such as a value that is read."""


def test_planted_faults_are_found(folder: Path) -> None:
    mode, task, batch = on_device(folder, "retrieval")
    forward = task.forward
    for fault, message in FAULTS:

        def faulty(
            batch: Any, epoch: float, fault: Callable[[Tensor], Tensor] = fault
        ) -> dict[str, Tensor]:
            outputs = dict(forward(batch, epoch))
            return outputs | {"loss": fault(outputs["loss"][None]).sum()}

        task.forward = faulty
        with mode, pytest.raises(AssertionError, match=message), Operations():
            stepped(task, adamw(task, 1e-3, 0.02), batch)


@pytest.mark.parametrize("run", RUNS)
def test_an_evaluation_and_the_calls_of_a_model_are_those_of_a_cpu(
    run: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attention(*given: Any) -> Tensor:
        result: Tensor = torch.ops.aten._scaled_dot_product_attention_math(*given)[0]
        return result

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    task = start(folder, run).eval()
    split = Shards(data(folder, task.config.dataset), "test")
    checkpoint, models = load_checkpoint(save_task(task, folder / f"{run}-asked")), [None]
    if task.capability:
        models.append(model_of(checkpoint))
    expected = [task.predict(split, 7, model) for model in models]
    with ValuedGpu():
        task.to(DEVICE)
        assert {tensor.device for tensor in task.state_dict().values()} == {DEVICE}
        models[1:] = [model_of(checkpoint, str(DEVICE)) for _ in models[1:]]
        assert [task.predict(split, 7, model) for model in models] == expected
