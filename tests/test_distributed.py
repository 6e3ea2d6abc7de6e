"""Several processes train and evaluate as one does: real ones, over gloo."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from albef.config import ParamsError
from albef.distributed import joined, world
from albef.loading.reading import Part
from albef.tasks.task import LoraConfig
from albef.training.sharding import Sharding
from albef.training.state import kept
from tests.conftest import CAPTIONS, KINDS, free_port, tiny_task
from tests.data import toy
from tests.tasks import random_batch
from tests.tasks.test_predict_exported import records_of
from tests.training import toy_training
from tests.training.test_loop import curves

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    toy.write(folder, [toy.record(i) for i in range(50)])
    return folder


@pytest.fixture(scope="module")
def two(data: Path) -> tuple[dict[str, Any], Path]:
    """What two processes found, and their folder."""
    return in_two_processes("each", data, data.parent / "two"), data.parent / "two"


def in_two_processes(what: str, data: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", toy_training.__name__, str(data), str(out), what]
    subprocess.run(command, cwd=ROOT, env=os.environ | address, check=True)
    found: dict[str, Any] = torch.load(out / "found.pt", weights_only=True)
    return found


@pytest.mark.parametrize("kind", toy_training.KINDS)
def test_two_processes_compute_what_one_does_with_as_many_micro_batches(
    two: tuple[dict[str, Any], Path], data: Path, kind: str
) -> None:
    found, _ = two
    ours, theirs = toy_training.gradients(kind, data), found[kind]["gradients"]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)
    compressed = found[kind]["compressed"]
    for name, gradient in theirs.items():
        if gradient is not None:  # terms of 8 bits, which may cancel each other
            difference = (compressed[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
            assert difference < 0.02, name
    assert any(not torch.equal(compressed[n], g) for n, g in theirs.items() if g is not None)
    if kind == "without_itc":  # what takes no part is left alone, not decayed
        assert theirs["model.image_proj.weight"] is None


@pytest.mark.parametrize("kind", toy_training.STOPPED.values())
def test_two_processes_train_as_one_does(
    two: tuple[dict[str, Any], Path], data: Path, tmp_path: Path, kind: str
) -> None:
    found, out = two
    state = toy_training.run(kind, data, tmp_path)
    together = found[kind]["state"]
    assert torch.equal(together["queue.pointer"], state["queue.pointer"])
    assert torch.equal(together["queue.ids"], state["queue.ids"])
    torch.testing.assert_close(together, state, rtol=1e-2, atol=5e-3)
    assert_same_curves(tmp_path, out / kind)


def assert_same_curves(one: Path, other: Path) -> None:
    """The same points, up to rounding."""
    ours, theirs = curves(one), curves(other)
    assert ours.keys() == theirs.keys()
    for name, text in ours.items():
        for line, its in zip(text.splitlines()[1:], theirs[name].splitlines()[1:], strict=True):
            values = [float(value) for value in its.split()]
            assert [float(value) for value in line.split()] == pytest.approx(values, rel=2e-3)


def test_split_weights_train_as_whole_ones_do(two: tuple[dict[str, Any], Path]) -> None:
    found, out = two
    kind = toy_training.STOPPED[True]
    states = found["split"]["state"], found[kind]["state"]
    torch.testing.assert_close(*states, rtol=1e-2, atol=5e-3)
    assert_same_curves(out / "split", out / kind)
    epochs = [load_file(kept(out / name, [1])[1]) for name in ("split", kind)]
    torch.testing.assert_close(*epochs, rtol=1e-2, atol=5e-3)


@pytest.mark.slow
def test_compiled_blocks_train_split_weights_as_others_do(data: Path) -> None:
    found = in_two_processes("split", data, data.parent / "split")
    torch.testing.assert_close(found["split, compiled"], found["split"])


@pytest.mark.parametrize(
    "change", [{"optimizer": "muon"}, {"precision": "float16"}, {"lora": LoraConfig()}]
)
def test_weights_are_split_for_adamw_alone(change: dict[str, Any]) -> None:
    task: Any = tiny_task()
    task.config = task.config.model_copy(update=change)
    with pytest.raises(ParamsError, match=r"runtime\.shard needs optimizer: adamw"):
        Sharding(task, CPU)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_that_stop_and_go_on_end_with_the_same_bytes(
    two: tuple[dict[str, Any], Path], shard: bool
) -> None:
    found, out = two
    whole = "split" if shard else toy_training.STOPPED[False]
    state, resumed = found[whole]["state"], found[f"cut {shard}"]
    assert all(torch.equal(state[name], resumed[name]) for name in state)
    assert curves(out / f"cut {shard}") == curves(out / whole)


@pytest.mark.parametrize(("shard", "kind"), toy_training.STOPPED.items())
def test_another_number_of_processes_resumes_where_they_stopped(
    two: tuple[dict[str, Any], Path],
    data: Path,
    caplog: pytest.LogCaptureFixture,
    shard: bool,
    kind: str,
) -> None:
    found, out = two
    folder, together = out / f"cut {shard}", found[f"cut {shard}"]
    max(folder.glob("state-*.pt")).unlink()
    with caplog.at_level("INFO"):
        alone = toy_training.run(kind, data, folder)
    assert "resuming at step 10 of 12" in caplog.text
    torch.testing.assert_close(alone, together, rtol=1e-2, atol=5e-3)
    assert torch.equal(alone["queue.ids"], together["queue.ids"])


@pytest.mark.filterwarnings("ignore:`broadcast_buffers`")
@pytest.mark.parametrize(
    ("size", "phase"), [(2, "backward"), pytest.param(4, "validate", marks=pytest.mark.slow)]
)
def test_a_process_that_fails_alone_ends_and_the_others_notice(
    data: Path, tmp_path: Path, size: int, phase: str
) -> None:
    """Without a launcher that would end the others."""
    fork, port = multiprocessing.get_context("fork"), str(free_port())
    given = [(rank, size, port, phase, data, tmp_path) for rank in range(size)]
    processes = [fork.Process(target=failing, args=its) for its in given]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes.pop(toy_training.PHASES[phase]) == toy_training.FAILED
    assert codes == [toy_training.LOST] * (size - 1)


def become(rank: int, size: int, port: str) -> None:
    """Be one of so many processes, after a fork."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank)}
    torch.set_num_threads(1)


def failing(rank: int, size: int, port: str, *given: Any) -> None:
    become(rank, size, port)
    toy_training.fail(*given)


def evaluated(rank: int, size: int, port: str, pictures: list[bytes], workers: int) -> list[Any]:
    """Tables, validations and judgements of every kind, as one of so many processes."""
    become(rank, size, port)
    found: list[Any] = []
    with joined(CPU):
        for kind in KINDS:
            task, records = tiny_task(kind), records_of(kind, pictures)
            task.workers = workers
            found.append(table := task.predict(records, 7))
            found.append(task.validate(table))
            if task.judges:
                pairs = [(i // 2, f"{CAPTIONS[i % 4]} {'a dog' * (i % 3)}") for i in range(37)]
                found.append(task.agreement(records, pairs, 5))
            few = Part(records, 0, 7)  # a batch, so that all processes but one have nothing to do
            found.append(task.predict(few, 7))
    return found


def together(size: int, pictures: list[bytes], workers: int = 0) -> list[list[Any]]:
    """What each of so many processes, forked from this one, has found."""
    context = multiprocessing.get_context("fork")
    given = size, str(free_port()), pictures, workers
    with ProcessPoolExecutor(size, context) as pool:
        return list(pool.map(evaluated, range(size), *([one] * size for one in given)))


def test_any_number_of_processes_and_workers_evaluate_to_the_same_bytes(
    pictures: list[bytes],
) -> None:
    """Batches are cut alike, and each is computed by one of them."""
    ((*alone,),) = together(1, pictures)
    assert len(alone) == 3 * len(KINDS) + 2
    for found in (*together(2, pictures, workers=2), *together(3, pictures)):
        assert found == alone


class Gathered(TorchDispatchMode):
    """Bytes that a process gives to an all-gather."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.name == "c10d::allgather_":
            self.bytes += sum(tensor.nbytes for tensor in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:`broadcast_buffers`")  # to be kept for now, it says
@pytest.mark.parametrize("size", [8, 256])
def test_many_processes_exchange_gradients_and_features_alone(size: int) -> None:
    """On a group whose other processes do not exist; docs/how-to/train-on-several-gpus.md has the
    bytes at the paper's size."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        task: Any = toy_training.task_of("pretraining").train()
        model: Any = world().parallel(task)
        reduced = []

        def reduce(
            state: None, bucket: distributed.GradBucket
        ) -> torch.futures.Future[torch.Tensor]:
            reduced.append(bucket.buffer().nbytes)
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        model.register_comm_hook(None, reduce)  # this group's own has no result
        task.begin_step()
        outputs = model(random_batch(4, 48, 12, 211, 3), 1.0)
        outputs["loss"].backward()
        with Gathered() as exchanged:
            gathered = world().all_gather([{n: t.detach() for n, t in outputs.items()}])
        task.end_step(gathered)
    finally:
        distributed.destroy_process_group()
    assert len(gathered) == size
    assert {name: tensor.shape for name, tensor in gathered[-1].items()} == {
        name: tensor.shape for name, tensor in outputs.items() if tensor.ndim
    }
    assert int(task.queue.pointer) == size * 4 % task.config.queue_size
    learning = sum(p.nbytes for p in task.parameters() if p.requires_grad)
    assert sum(reduced) == learning
    assert exchanged.bytes == 2 * 4 * task.sizes.embed_dim * 4  # two features of four pairs
