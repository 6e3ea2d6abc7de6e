"""Compiled blocks: the same numbers under the same names."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from albef.models.albef import ALBEF
from albef.models.kernels import compile_blocks, recompute
from albef.tasks.pretraining import Task
from albef.training.speed import Speed
from tests.conftest import tiny_model
from tests.original import vocabulary
from tests.tasks.test_pretraining import batch
from tests.tasks.test_pretraining_parity import config

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")
"""Which the compiler itself looks at, and hides the warning."""


@pytest.fixture(autouse=True)
def _own_cache() -> Iterator[None]:
    torch._dynamo.reset()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def test_compiled_encoders_give_the_same_under_the_same_names() -> None:
    """Traced and run without kernels of their own, which takes no compiler."""
    image, ids = torch.randn(2, 3, 16, 16), torch.randint(5, 80, (2, 6))
    found: list[Any] = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = ALBEF(tiny_model(), 80)
        names = list(model.state_dict())
        if compiled:
            torch._dynamo.utils.counters.clear()
            compile_blocks(model, backend="eager", fullgraph=True)
            with Speed(torch.device("cpu"), torch.float32).counted():  # as a training starts
                model.encode_image(image)
        keys = model.fusion_encoder.image_key_values(model.encode_image(image))
        mask = torch.ones_like(ids)
        fused = model.fused_cls(model.encode_text(ids, mask), mask, keys)
        fused.square().sum().backward()
        assert list(model.state_dict()) == names
        gradients = {name: p.grad for name, p in model.named_parameters() if "proj." not in name}
        found.append((fused, gradients))
    torch.testing.assert_close(found[1], found[0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4  # a ViT's, a text's, fusion


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("again", [False, True])
def test_a_step_compiled_to_kernels_equals_the_plain_one(again: bool) -> None:
    """Two lengths, with the twin's passes, kept activations and recomputed ones."""
    tasks: list[Task] = []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = Task(config(0.4), vocabulary()).train()
        recompute(task, again)
        if compiled:
            compile_blocks(task, fullgraph=True)
        tasks.append(task)
    for length in (12, 9):
        given = batch(4, 48, length, 211, 3)
        found: list[Any] = []
        for task in tasks:
            torch.manual_seed(1)
            task.zero_grad()
            losses = task(given, 1.0)
            losses["loss"].backward()
            gradients = {name: p.grad for name, p in task.named_parameters() if p.requires_grad}
            told = {name: losses[name] for name in ("loss", "itc", "itm", "mlm")}
            found.append((told, gradients))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
