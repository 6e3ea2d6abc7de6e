"""The stages of a run, for the kinds that classify, on tiny real data."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from albef.config import validate
from albef.io import file_digest
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.tasks import pretraining
from tests.pipelines.test_training import ingest_unchecked, step, values, work

SPLITS = {"train": 96, "val": 36, "test": 36}
RUNS = {"entailment": "statements", "text_assignment": "scenes", "nlvr2": "comparisons"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the stages of three runs have been through."""
    here = tmp_path_factory.mktemp("project")
    params = values()
    source = {"objects": 12, "pixels": 48, "splits": SPLITS}
    for name in ("statements", "comparisons"):
        params["datasets"][name] = params["datasets"]["scenes"] | {
            "sources": {name: {"kind": name, **source}}
        }
    run = params["tasks"].pop("retrieval")
    pairs = ("alpha", "queue_size", "momentum", "itc", "hard_negatives", "rerank_k")
    run = {n: v for n, v in run.items() if n not in pairs}
    for name, dataset in RUNS.items():
        params["tasks"][name] = run | {"kind": name, "dataset": dataset, "lr": 1e-3}
        if name != "text_assignment":
            params["tasks"][name] |= {"alpha": 0.4, "momentum": 0.9}
    params["tasks"]["nlvr2"]["init"] = "text_assignment"
    params["tasks"]["entailment"]["lr"] = run["lr"]  # a range
    with pytest.MonkeyPatch.context() as patch:
        slots = str(tmp_path_factory.mktemp("slots"))
        patch.setenv("TMPDIR", slots)
        patch.setattr(tempfile, "tempdir", slots)
        patch.chdir(here)
        work(here, params)
        config = validate(pretraining.Config, params["pretrain"], where="test")
        torch.manual_seed(0)
        task = pretraining.Task(config, TextTokenizer.train(["a squid left of two apples"], 60))
        save_checkpoint(
            here / "products/models/pretrained",
            kind="pretraining",
            model=config.model,
            tensors=task.state_dict(),
            tokenizer=task.tokenizer,
            values=config.model_dump(),
            provenance={},
        )
        for name, dataset in RUNS.items():
            ingest_unchecked(dataset)
            for stage in ("search", "finetune", "evaluate"):
                step(stage, name)
        yield here


def test_each_run_starts_from_the_one_before(folder: Path) -> None:
    parent = folder / "products/models/text_assignment/model.safetensors"
    checkpoint = load_checkpoint(folder / "products/models/nlvr2")
    assert checkpoint.kind == "nlvr2"
    assert checkpoint.config["provenance"]["parent_weights"] == file_digest(parent)
    choice = json.loads((folder / "products/search/entailment/choice.json").read_text())
    assert set(choice) == {"lr"}


@pytest.mark.parametrize(("run", "classes"), [("entailment", 3), ("nlvr2", 2)])
def test_the_metrics_follow_from_the_predictions(folder: Path, run: str, classes: int) -> None:
    metrics = json.loads((folder / f"products/metrics/{run}.json").read_text())
    assert metrics["chance"]["test"]["accuracy"] == pytest.approx(100 / classes)
    table = pq.read_table(folder / f"products/results/{run}/predictions.parquet").to_pylist()
    assert len(table) == SPLITS["test"]
    right = [row["answer"] == row["predicted"] for row in table]
    assert metrics["test"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert all(len(row["probabilities"]) == classes for row in table)
    assert set(metrics["random_weights"]["test"]) == set(metrics["test"])


def test_the_behaviour_of_a_kind_that_judges_one_picture_is_tested(folder: Path) -> None:
    metrics = json.loads((folder / "products/metrics/entailment.json").read_text())
    assert set(metrics["behaviour"]) >= {"overall", "accepted", "count", "unrelated"}
    table = pq.read_table(folder / "products/results/entailment/behaviour.parquet")
    assert set(table["test"].to_pylist()) == set(metrics["behaviour"]) - {"overall", "accepted"}
    metrics = json.loads((folder / "products/metrics/nlvr2.json").read_text())
    assert "behaviour" not in {*metrics, *metrics["chance"]}
    none = pq.read_table(folder / "products/results/nlvr2/behaviour.parquet")
    assert none.num_rows == 0
    assert none.schema == table.schema


def test_text_assignment_is_scored_on_every_split(folder: Path) -> None:
    metrics = json.loads((folder / "products/metrics/text_assignment.json").read_text())
    assert {"test", "pairs"} <= set(metrics)
    assert metrics["chance"]["test"]["accuracy"] == pytest.approx(100 / 3)
