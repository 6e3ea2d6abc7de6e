"""Recomputed activations: the same numbers, fewer kept."""

from typing import Any

import pytest
import torch
from torch import Tensor

from albef.models.kernels import recompute
from albef.tasks.pretraining import Task
from tests.original import vocabulary
from tests.tasks.test_pretraining import batch
from tests.tasks.test_pretraining_parity import config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_the_same_and_less_is_kept(dtype: torch.dtype) -> None:
    values = config(0.4)
    text = values.model.text.model_copy(update={"dropout": 0.1})
    model = values.model.model_copy(update={"text": text})
    torch.manual_seed(0)
    task = Task(values.model_copy(update={"model": model}), vocabulary()).train()
    given = batch(4, 48, 12, 211, 3)
    found: list[Any] = []
    kept: list[int] = []
    for on in (False, True):
        recompute(task, on)
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(1)
        task.zero_grad()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        ):
            losses = task(given, 1.0)
        kept.append(sum(sizes.values()))
        losses["loss"].backward()
        gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        found.append(({name: losses[name] for name in ("loss", "itc", "itm", "mlm")}, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert kept[1] < 0.75 * kept[0]
