"""Tricks of processors: the same numbers, faster, in less memory, or compiled."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.models import kernels, vision
from albef.models.bert import attention_bias
from albef.models.kernels import attend, compile_blocks, evaluating, product_type, recompute, select
from albef.tasks.pretraining import Task
from albef.training.speed import Speed
from tests.conftest import tiny_model
from tests.models.encoders import image, sizes, text
from tests.original import vocabulary
from tests.tasks import random_batch
from tests.tasks.test_pretraining_parity import config


def heads(*shape: int) -> Tensor:
    """As the layer makes them: heads are a view of the width."""
    batch, head, length, width = shape
    return torch.randn(batch, length, head, width).transpose(1, 2).requires_grad_()


def gradients(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad((result * torch.randn(result.shape)).sum(), inputs)


def test_products_give_what_the_kernel_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(3, 2, 5, 4), heads(3, 2, 7, 4), heads(3, 2, 7, 4)
    mask = torch.ones(3, 7)
    mask[1, 4:] = 0
    bias = attention_bias(mask)
    kernel = attend(query, key, value, bias, 0.0)
    expected = gradients(kernel, query, key, value)
    monkeypatch.setattr(kernels, "on_cpu_in_16_bits", lambda states: True)
    products = attend(query, key, value, bias, 0.0)
    torch.testing.assert_close(products, kernel)
    torch.testing.assert_close(gradients(products, query, key, value), expected)
    torch.manual_seed(0)
    dropped = attend(query, key, value, bias, 0.5)
    assert not torch.allclose(dropped, products)


def test_under_autocast_a_cpu_passes_states_between_layers_in_16_bits() -> None:
    torch.manual_seed(0)
    model, given = Task(config(0.4), vocabulary()).model, random_batch(2, 48, 12, 211, 3)

    def encoded() -> tuple[Tensor, Tensor]:
        text = model.encode_text(given["ids"], given["text_mask"])
        return model.encode_image(given["image"]), text

    exact = encoded()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = encoded()
    for states, rounded in zip(exact, narrow, strict=True):
        assert states.dtype == torch.float32
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), states, rtol=0.05, atol=0.05)


def test_recomputed_blocks_take_the_same_kernel_as_before() -> None:
    encoder = vision.ImageEncoder(tiny_model().image)
    recompute(encoder, True)
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(torch.randn(2, 3, 16, 16))
    states.float().square().sum().backward()  # torch compares what is computed again
    assert all(p.grad is not None for p in encoder.parameters())


def test_selecting_keys_and_values_is_exact_with_gradient_and_without() -> None:
    key, value = heads(4, 2, 5, 3), heads(4, 2, 5, 3)
    index = torch.tensor([2, 0, 2, 3, 1, 1])
    ((keys, values),) = select([(key, value)], index)
    assert torch.equal(keys, key[index])
    assert torch.equal(values, value[index])
    expected = gradients(key[index], key)
    torch.testing.assert_close(gradients(keys, key), expected)
    with torch.no_grad():
        ((keys, _),) = select([(key, value)], index)
    assert torch.equal(keys, key[index])


@pytest.mark.parametrize("own", [True, False])
def test_recomputed_blocks_give_the_same_losses_and_gradients_and_keep_less(own: bool) -> None:
    values = config(0.4)
    dropout = values.model.text.model_copy(update={"dropout": 0.1})
    model = values.model.model_copy(update={"text": dropout})
    if not own:
        bert = text("bert", vocab_size=211)
        model = sizes(image("vit_tiny_patch16_224", 48), bert, fusion={"depth": 1})
    torch.manual_seed(0)
    task = Task(values.model_copy(update={"model": model}), vocabulary()).train()
    given = random_batch(4, 48, 12, 211, 3)
    found: list[Any] = []
    kept: list[int] = []
    for on in (False, True):
        recompute(task, on)
        saved: dict[int, int] = {}

        def keep(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(1)
        task.zero_grad()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            losses = task(given, 1.0)
        kept.append(sum(saved.values()))
        losses["loss"].backward()
        gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        found.append(({name: losses[name] for name in ("loss", "itc", "itm", "mlm")}, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert kept[1] < 0.75 * kept[0]


@pytest.fixture
def own_cache() -> Iterator[None]:
    torch._dynamo.reset()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("backend", "lengths"),
    [
        ("eager", (12, 9, 10, 12)),  # traced and run without kernels of its own
        pytest.param(
            "inductor",
            (12, 9),
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
                # Processes of the compiler, which torch leaves to the end of the interpreter.
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
            ],
        ),
    ],
)
def test_compiled_blocks_compute_the_same_for_any_length(
    backend: str, lengths: tuple[int, ...]
) -> None:
    """Whole blocks (fullgraph) are compiled at most twice: for the first length, and for others."""
    tasks: list[Task] = []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = Task(config(0.4), vocabulary()).train()
        recompute(task, backend == "inductor")
        names = list(task.state_dict())
        if compiled:
            torch._dynamo.utils.counters.clear()
            compile_blocks(task, backend=backend, fullgraph=True)
            with Speed(torch.device("cpu"), torch.float32).counted():  # as a training starts
                task(random_batch(4, 48, lengths[0], 211, 3), 1.0)
        assert list(task.state_dict()) == names
        tasks.append(task)
    graphs: list[int] = []
    for length in lengths:
        given = random_batch(4, 48, length, 211, 3)
        found: list[Any] = []
        for task in tasks:
            torch.manual_seed(1)
            task.zero_grad()
            losses = task(given, 1.0)
            losses["loss"].backward()
            gradients = {name: p.grad for name, p in task.named_parameters() if p.requires_grad}
            parts = {name: losses[name] for name in ("loss", "itc", "itm", "mlm")}
            found.append((parts, gradients))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] < graphs[1] <= 2 * graphs[0], "the image encoder has one length"
    assert set(graphs[2:]) <= {graphs[1]}
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def emulates(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulates)
    assert product_type("auto", torch.device("cuda")) is None


def test_evaluation_has_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    linear, states = torch.nn.Linear(4, 4), torch.ones(2, 4)
    cpu = torch.device("cpu")
    for precision, dtype in (
        ("auto", torch.float32),  # a processor's training alone is in 16 bits
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ):
        with evaluating(precision, cpu), torch.no_grad():
            assert linear(states).dtype == dtype
        tf32 = torch.get_float32_matmul_precision()
        assert tf32 == ("high" if precision == "tf32" else "highest")
    torch.set_float32_matmul_precision("highest")
    assert product_type("auto", cpu) == torch.bfloat16
