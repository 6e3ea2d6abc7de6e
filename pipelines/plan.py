"""Estimate of what the trainings of a preset need on GPUs: memory, operations and time.

A step of each training runs on a fake GPU, without memory or values. No data is read.
"""

import contextlib
import functools
import importlib
import itertools
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from albef.config import ParamsError, did_you_mean, ranges, read_preset, replaced, validate
from albef.data.record import Record
from albef.data.shards import ShardError, describe
from albef.ingest.config import RowsConfig
from albef.ingest.sources import kind_of
from albef.layout import Layout, Runtime
from albef.loading.reading import Batch
from albef.models.albef import ALBEF, settled
from albef.models.encoders import BLOCK, TransformersConfig
from albef.models.kernels import recompute
from albef.models.weights import Checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.tasks import pretraining
from albef.tasks.task import MAX_WORDS, Task, TrainingConfig
from albef.training.loop import Setup, Trainer
from albef.training.lora import adapt
from pipelines.fake_gpu import DEVICE, move, on_gpu
from pipelines.params import Params, load

EXAMPLES = Path("presets/smoke.yaml")
"""Preset with a run of most kinds. Its records, which are drawn, stand in for real ones."""
FEW = 8
"""Number of records that are drawn; a larger micro-batch repeats them."""
RESERVED_GIB = 1.0
"""Memory for CUDA's context and workspaces and for fragmentation, an assumption."""
_CPU = torch.device("cpu")
_COLUMNS = ("training", "micro_batch_size", "largest", "GiB, always", "at most", "fits",
            "TFLOP per step", "hours per million rows", "days")  # fmt: skip


class Live(TorchDispatchMode):
    """Bytes of the tensors on a device that are alive, and their maximum."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self._sizes = device, dict[int, int]()
        self.now = self.peak = 0

    def add(self, tree: Any) -> None:
        """Count the memory of each tensor in nested containers until it is freed."""
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, Tensor) or tensor.device != self.device:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result


@dataclass(frozen=True)
class Need:
    """Needs of a training step on each GPU."""

    state: int
    """Bytes that are always used: weights, momentum model, queue, optimizer."""
    peak: int
    """Maximum of the bytes used."""
    flops: int
    """Operations of matrix products and attention in a micro-batch."""


class Training:
    """A training whose step runs with micro-batches of any size, which repeat the ``records``.

    ``mode`` is that of the fake GPU; None computes real steps on ``device``.
    """

    def __init__(
        self,
        task: Task,
        runtime: Runtime,
        records: Sequence[Record],
        mode: FakeTensorMode | None,
        device: torch.device = _CPU,
    ) -> None:
        self._records, self._mode = records, mode
        self._fake = mode or contextlib.nullcontext()
        recompute(task, runtime.recompute)
        if mode:
            if task.config.lora is not None:  # peft cannot add adapters to fake layers
                adapt(task, task.config.lora)
            move(mode, task)
            task.to = lambda device: task  # type: ignore[method-assign, assignment]
        numbers: Any = SimpleNamespace(
            numbers=lambda step: [0], draw_seed=lambda number: 0, steps_per_epoch=1
        )
        setup = Setup(Path(), device, runtime)
        with self._fake:
            trainer = Trainer(task.train(), numbers, setup, lambda epoch: {}, lambda *step: None)
        trainer.model, trainer.setup = task, replace(setup, device=DEVICE if mode else device)
        trainer.speed = SimpleNamespace(counted=contextlib.nullcontext)  # type: ignore[assignment]
        trainer.done = 1  # the second epoch begins, and with it the queue and distillation
        self.trainer, self.task = trainer, task
        self.step(2)

    def batch(self, size: int) -> Batch:
        """Return a micro-batch of ``size`` records, with blank images."""
        side, states = self.task.image_size, frozen_states(self.task)

        def blank(image: bytes, rng: np.random.Generator, key: str) -> NDArray[Any]:
            return np.zeros(states, np.float16) if states else np.zeros((3, side, side), np.uint8)

        records = list(itertools.islice(itertools.cycle(self._records), size))
        made = self.task.collate(blank)(records, np.random.default_rng(0))  # type: ignore[arg-type]
        mode = self._mode
        return {name: on_gpu(mode, t) for name, t in made.items()} if mode else dict(made)

    def step(self, size: int) -> None:
        """Take a step with a micro-batch of ``size`` records."""
        batch, self.trainer.done = self.batch(size), 1
        with self._fake:
            self.trainer.step([batch])

    def need(self, size: int, *, keep_gradients: bool, parts: int = 1) -> Need:
        """Return what a step with micro-batches of ``size`` records needs.

        ``keep_gradients`` counts the gradients of an earlier micro-batch, or of another process.
        ``parts`` is the number of processes that split the weights of blocks.
        """
        optimizer, live = self.trainer.optimizer, Live(self.trainer.setup.device)
        parameters = [*self.task.parameters()]
        live.add([parameters, [*self.task.buffers()], dict(optimizer.state)])
        state = live.now
        if keep_gradients:
            live.add([parameter.grad for parameter in parameters])
            optimizer.zero_grad = lambda: None  # type: ignore[method-assign, assignment, misc]
        with live, FlopCounterMode(display=False) as counter:
            self.step(size)
        optimizer.__dict__.pop("zero_grad", None)
        blocks = [p for name, p in self.task.named_parameters() if BLOCK.match(name)]
        moments = tree_leaves([optimizer.state.get(p, {}) for p in blocks])
        held = sum(t.nbytes for t in [*blocks, *moments] if t.device == live.device)
        gradients = sum(p.nbytes for p in blocks if p.requires_grad)
        others = 1 - 1 / parts  # share of the blocks that is with other processes
        peak = live.peak - int(others * (held + gradients))
        return Need(state - int(others * held), peak, counter.get_total_flops())


def frozen_states(task: Task) -> tuple[int, int] | None:
    """Return the shape of an image's states if they are computed once, because all is frozen."""
    model = getattr(task, "model", None)
    if not isinstance(model, ALBEF) or not task.config.augment.keeps_pixels:
        return None
    encoder = model.image_encoder
    if encoder.first_learning() is not None:
        return None
    return (1 + encoder.grid**2 if task.fuses else 1), encoder.width


class Trainings:
    """The trainings of a preset that run, in as many processes as fake ``gpus``."""

    def __init__(self, params: Params, gpus: int) -> None:
        self.params, self.gpus = params, gpus
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._examples = read_preset(EXAMPLES)
        starts = {run.init.partition("/")[0] for run in params.tasks.values()}
        pretrained = {"pretrained": params.pretrain} if "pretrained" in starts else {}
        trained = {**pretrained, **params.tasks}
        self.configs: dict[str, TrainingConfig] = {n: c for n, c in trained.items() if c.epochs}
        self.need = functools.cache(self._need)
        self.training = functools.cache(self._training)

    def sizes(self, name: str) -> list[int]:
        """Return the values that ``micro_batch_size`` of a training may have, in order."""
        total = self.configs[name].global_batch_size
        return [n for n in range(2, total + 1) if not total % (n * self.gpus)]

    def largest(self, name: str, limit: int) -> int | None:
        """Return the largest micro-batch that needs at most ``limit`` bytes; None if none does."""
        sizes, own = self.sizes(name), self.configs[name].micro_batch_size
        at = bisect_right(sizes, own)
        fits = self.need(name, own).peak <= limit  # known already: it halves the search
        bounds = (at, len(sizes)) if fits else (0, at)
        fitting = bisect_right(sizes, limit, *bounds, key=lambda size: self.need(name, size).peak)
        return sizes[fitting - 1] if fitting else None

    def _need(self, name: str, size: int) -> Need:
        accumulates = size < self.configs[name].global_batch_size  # over micro-batches or GPUs
        parts = self.gpus if self.params.runtime.shard else 1
        return self.training(name).need(size, keep_gradients=accumulates, parts=parts)

    def _training(self, name: str) -> Training:
        kind = getattr(self.configs[name], "kind", "retrieval")
        with torch.device("meta"):
            task = self.task(name)
        return Training(task, self.params.runtime, self.records(kind), self._mode)

    def task(self, name: str) -> Task:
        """Return the task of a training at its start, on the default device."""
        config = self.params.tasks.get(name)
        if config is None:  # pre-training, or an imported checkpoint of its sizes
            config = _without_ranges(self.params.pretrain)
            size, model = config.tokenizer.vocab_size, settled(config.model)
            if isinstance(model.text, TransformersConfig) and model.text.config:
                size = min(size, model.text.config["vocab_size"])
            config = config.model_copy(update={"model": model})
            return pretraining.Task(config, self._tokenizer(size))
        init = config.init.partition("/")[0]
        before = self.task(init)
        kind, tensors = getattr(before.config, "kind", "pretraining"), before.state_dict()
        start = Checkpoint(Path(init), kind, before.sizes, {}, tensors, before.tokenizer)
        task: type[Any] = importlib.import_module(f"albef.tasks.{config.kind}").Task
        made: Task = task.start(_without_ranges(config), start)
        return made

    def records(self, kind: str) -> list[Record]:
        """Draw records for a kind, with texts of the maximum length."""
        runs = {run["kind"]: run["dataset"] for run in self._examples["tasks"].values()}
        dataset = runs.get(kind, runs["retrieval"])
        values = self._examples["datasets"][dataset]
        source = [*validate(RowsConfig, values, where=str(EXAMPLES)).sources.values()][-1]
        drawn = (r for r in kind_of(source).records(source, 1) if isinstance(r, Record))
        caption = " ".join(["w"] * MAX_WORDS)
        return [
            replace(record, captions=(caption,) * len(record.captions))
            for record in itertools.islice((r for r in drawn if r.split == "train"), FEW)
        ]

    def _tokenizer(self, size: int) -> TextTokenizer:
        """Return a tokenizer of ``size`` tokens, among them the words that values name."""
        groups = [self.params.pretrain.masked_groups]
        groups += [getattr(run, "exchanged", ()) for run in self.params.tasks.values()]
        named = [word for group in itertools.chain(*groups) for word in group]
        tokenizer = TextTokenizer.train(["w"], 0)
        words = dict.fromkeys([*named, *(f"w{i}" for i in range(size))])
        tokenizer.tokenizer.add_tokens([*words][: max(0, size - tokenizer.vocab_size)])
        return tokenizer


def _without_ranges(config: Any) -> Any:
    """Return a training with the start of each range, in 16 bits if it may choose them."""
    starts: dict[str, Any] = {name: value.start for name, value in ranges(config).items()}
    if config.precision in ("auto", "float16"):  # the same bytes, and no scaler to look at values
        starts["precision"] = "bfloat16"
    return replaced(config, starts)


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a plan: their number, and the memory in GiB and speed in FLOP/s of each."""

    number: int
    gib: float
    flops: float

    @property
    def limit(self) -> int:
        """Bytes of a GPU that a step may use."""
        return int((self.gib - RESERVED_GIB) * 2**30)


def main(path: Path, gpus: Gpus, rows: Sequence[str]) -> int:
    """Print the plan of a params file or preset; return 1 if a training does not fit.

    Raises:
        ParamsError: the file is invalid, or an item of ``rows`` is not NAME=COUNT.
    """
    params = load(path, related=False)
    counts, all_fit = dict(_count(params, item) for item in rows), True
    trainings = Trainings(params, gpus.number)
    print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
    notes: list[str] = []
    for name, config in trainings.configs.items():
        size = config.micro_batch_size
        need, largest = trainings.need(name, size), trainings.largest(name, gpus.limit)
        fits = need.peak <= gpus.limit and config.global_batch_size % (size * gpus.number) == 0
        flops, speed = need.flops / size, gpus.number * gpus.flops
        count = counts.get(config.dataset) or _rows(params, config.dataset)
        days = flops * count * config.epochs / speed / 86400
        cells = (
            *(name, size, largest or "none"),
            *(f"{used / 2**30 + RESERVED_GIB:.1f}" for used in (need.state, need.peak)),
            *("yes" if fits else "no", f"{flops * config.global_batch_size / 1e12:.3g}"),
            *(f"{flops * 1e6 / speed / 3600:.2g}", f"{days:.2g}" if count else "?"),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        all_fit &= fits
        task = trainings.training(name).task
        if count and frozen_states(task):
            encoder: Any = task.get_submodule("model.image_encoder")
            gib = count * (1 + encoder.grid**2) * encoder.width * 2 / 2**30
            notes.append(
                f"{name}: the image encoder is frozen. Its states take {gib:.2g} GiB of disk "
                f"(runtime.frozen_gb: {params.runtime.frozen_gb:g}) and are computed once, not in "
                f"each of {config.epochs} epochs. The table counts no operations for them."
            )
    print("".join(f"\n{note}" for note in notes), end="\n" if notes else "")
    return 0 if all_fit else 1


def _count(params: Params, item: str) -> tuple[str, int]:
    name, _, count = item.partition("=")
    datasets = {**params.datasets, **params.curate}
    if not count.isdecimal():
        raise ParamsError(f"--rows {item}: must be NAME=COUNT")
    if name not in datasets:
        raise ParamsError(f"--rows {item}: no dataset {name}{did_you_mean(name, datasets)}")
    return name, int(count)


def _rows(params: Params, dataset: str) -> int:
    try:
        return int(describe(Layout(params.paths).data(dataset))["splits"]["train"])
    except (ShardError, KeyError):
        return 0
