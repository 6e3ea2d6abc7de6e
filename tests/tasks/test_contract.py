"""Every kind of run does what the stages ask of it: the contract of albef/tasks/task.py."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from albef.config import read_preset, validate
from albef.data.shards import Shards
from albef.ingest import shard_writer
from albef.ingest.config import RowsConfig
from albef.ingest.sources import kind_of
from albef.loading.reading import Batch, to_device
from albef.metrics.family import family_of
from albef.models.weights import load_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Transform
from albef.tasks import pretraining
from albef.tasks.task import RunConfig
from albef.training.optim import adamw
from pipelines.params import kinds
from tests.conftest import save_task

ROOT = Path(__file__).parents[2]
SMOKE: dict[str, Any] = read_preset(ROOT / "presets/smoke.yaml")
RUNS: dict[str, dict[str, Any]] = SMOKE["tasks"]
"""A run of each kind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets as they are asked for, and models, which start with a pre-trained one."""
    return saved(tmp_path_factory.mktemp("contract"), pretrained())


def saved(here: Path, task: pretraining.Task) -> Path:
    """A folder with the checkpoint ``pretrained``."""
    save_task(task, here / "pretrained")
    return here


def pretrained(**changed: Any) -> pretraining.Task:
    """Pre-training at its start."""
    config = validate(pretraining.Config, SMOKE["pretrain"] | changed, where="smoke")
    words = ["a squid left of two apples", "three frogs above a key", "how many are there yes no"]
    torch.manual_seed(0)
    return pretraining.Task(config, TextTokenizer.train(words, 90))


def data(folder: Path, name: str) -> Path:
    """A data set of the smallest preset, made once."""
    made = folder / "data" / name
    if not made.exists():
        config = validate(RowsConfig, SMOKE["datasets"][name], where="smoke")
        source = next(reversed(config.sources.values()))
        shard_writer.write(
            made, name, kind_of(source).records(source, 1), shard_mb=8,
            licences=source.terms(), sources=[],
        )  # fmt: skip
    return made


def start(folder: Path, run: str) -> Any:
    """The task of a run at its start, after those that it starts from."""
    entry = RUNS[run]
    module = importlib.import_module(f"albef.tasks.{entry['kind']}")
    config = validate(module.Config, entry, where="contract")
    if not (folder / config.init).exists():
        save_task(start(folder, config.init), folder / config.init)
    torch.manual_seed(0)
    task = module.Task.start(config, load_checkpoint(folder / config.init))
    task.prepare(Shards(data(folder, config.dataset), "train"))
    return task


def collated(folder: Path, task: Any) -> Batch:
    """A batch of the task's train split."""
    dataset = task.config.dataset
    shards = Shards(data(folder, dataset), "train")
    collate = task.collate(Transform(task.config.augment, task.image_size))
    return dict(collate([shards[i] for i in range(8)], np.random.default_rng(0)))


UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


def stepped(
    task: Any,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    scaler: torch.amp.GradScaler = UNSCALED,
) -> dict[str, torch.Tensor]:
    """The outputs of a training step, taken as the loop takes it."""
    task.begin_step()
    outputs: dict[str, torch.Tensor] = task(batch, 1.0)
    scaler.scale(outputs["loss"]).backward()
    learning = {name for name, p in task.named_parameters() if p.requires_grad}
    assert learning == {name for name, p in task.named_parameters() if p.grad is not None}
    task.end_step([{name: value.detach() for name, value in outputs.items()}])
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return outputs


def test_a_run_of_every_kind_is_taken_through_the_contract() -> None:
    assert sorted({entry["kind"] for entry in RUNS.values()}) == kinds()


@pytest.mark.parametrize("run", RUNS)
def test_one_step_predict_score_save_and_load(run: str, folder: Path) -> None:
    task = start(folder, run)
    config: RunConfig = task.config
    batch = to_device(collated(folder, task), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}

    task.train()
    outputs = task(batch, 1.0)
    changed = [n for n, t in task.state_dict().items() if not torch.equal(t, before[n])]
    assert changed == [], "forward changes no state"
    optimizer = adamw(task, 1e-3, config.weight_decay)
    # A tensor that is made without a device would be on "meta" and raise an error.
    with torch.device("meta"):
        outputs = stepped(task, optimizer, batch)
    assert torch.isfinite(outputs["loss"])
    learned = [n for n, p in task.named_parameters() if not torch.equal(p, before[n])]
    assert any("image_encoder" in name for name in learned)
    assert any("text_encoder" in name or "decoder" in name for name in learned)

    task.eval()
    split = Shards(data(folder, config.dataset), "test")
    table = task.predict(split, 7)  # no multiple of the split's length
    rows = pa.table(table)
    assert set(rows["key"].to_pylist()) == {split[i].key for i in range(len(split))}
    family = family_of(type(task))
    metrics = family.score(table)
    assert 0 <= metrics[task.primary] <= 100
    assert metrics == family.score(rows.to_pydict()), "scored from Parquet as from memory"
    examples = family.examples(table)
    groups = table[examples.strata] if examples.strata else [""] * len(examples.scores)
    score = pd.Series(examples.scores).groupby(groups).mean().mean()
    assert metrics[examples.metric] == pytest.approx(100 * score)
    assert examples.scores == family.examples(rows.to_pydict()).scores
    for column in (examples.question, examples.given, examples.truth, *examples.pictures):
        assert not column or column in table
    chance = family.chance(table)
    assert task.primary in chance
    assert set(chance) <= set(metrics)
    validated = task.validate(table)
    assert validated.metrics.items() <= metrics.items()
    assert validated.metrics[task.primary] == metrics[task.primary]
    assert validated.chance == pytest.approx(chance[task.primary])

    checkpoint = load_checkpoint(save_task(task, folder / f"{run}-saved"))
    json.dumps(task.facts())
    restored = type(task).restore(config, checkpoint).eval()
    assert restored.predict(split, 7) == table
    torch.manual_seed(1)
    blank = type(task).blank(config, checkpoint).eval()
    assert set(blank.predict(split, 7)) == set(table)
    assert set(family.score(blank.predict(split, 7))) == set(metrics)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_waits_for_nothing(folder: Path) -> None:
    device = torch.device("cuda")
    for run in ("pretraining", *RUNS):
        task: Any = pretrained() if run == "pretraining" else start(folder, run)
        task.to(device).train()
        optimizer = adamw(task, 1e-3, 0.02)
        pinned = {name: tensor.pin_memory() for name, tensor in collated(folder, task).items()}
        stepped(task, optimizer, to_device(pinned, device))  # kernels are loaded, states made
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                stepped(task, optimizer, to_device(pinned, device))
        finally:
            torch.cuda.set_sync_debug_mode("default")
