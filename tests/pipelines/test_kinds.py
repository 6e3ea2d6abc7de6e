"""The stages of a run, for kinds that classify or answer, on tiny real data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from albef.config import validate
from albef.data.shards import Shards
from albef.export.torch_model import load
from albef.io import file_digest
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.tasks import pretraining
from tests.pipelines.test_training import ingest_unchecked, step, values, work

RUNS = {
    "entailment": "statements",
    "text_assignment": "scenes",
    "nlvr2": "comparisons",
    "vqa": "questions",
}
TYPES = ("existence", "count", "object", "relation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, in which the stages of the runs have been through."""
    here = tmp_path_factory.mktemp("project")
    params = values()
    lr = params["tasks"]["retrieval"]["lr"]
    params["tasks"] = {name: params["tasks"][name] for name in RUNS}
    params["tasks"]["entailment"]["lr"] = lr  # a range
    params["tasks"]["vqa"]["init"] = "pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        work(here, params)
        config = validate(pretraining.Config, params["pretrain"], where="test")
        torch.manual_seed(0)
        words = ["a squid left of two apples", "yes no one three"]
        task = pretraining.Task(config, TextTokenizer.train(words, 120))
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


def metrics_of(run: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(Path(f"products/metrics/{run}.json").read_text())
    return metrics


def predictions_of(run: str) -> list[dict[str, Any]]:
    table = pq.read_table(f"products/results/{run}/predictions.parquet")
    return [row for row in table.to_pylist() if row["split"] == "test"]


def test_each_run_starts_from_the_one_before(folder: Path) -> None:
    checkpoint = load_checkpoint(Path("products/models/nlvr2"))
    parent = file_digest(Path("products/models/text_assignment/model.safetensors"))
    assert checkpoint.kind == "nlvr2"
    assert checkpoint.config["provenance"]["parent_weights"] == parent
    choice = json.loads(Path("products/search/entailment/choice.json").read_text())
    assert set(choice) == {"lr"}


@pytest.mark.parametrize("run", ["entailment", "nlvr2", "vqa"])
def test_the_metrics_follow_from_the_predictions(folder: Path, run: str) -> None:
    metrics, rows = metrics_of(run), predictions_of(run)
    shards = Shards(Path("products/data") / RUNS[run], "test")
    if run == "vqa":
        assert len(rows) == sum(map(len, shards.captions))
        right = [row["answer"] in row["truths"] for row in rows]
    else:
        classes = {"entailment": 3, "nlvr2": 2}[run]
        assert metrics["chance"]["test"]["accuracy"] == pytest.approx(100 / classes)
        assert all(len(row["probabilities"]) == classes for row in rows)
        assert len(rows) == len(shards)
        right = [row["answer"] == row["predicted"] for row in rows]
    assert metrics["test"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert set(metrics["random_weights"]["test"]) == set(metrics["test"])


def test_metrics_by_type_stand_beside_three_baselines(folder: Path) -> None:
    metrics = metrics_of("vqa")
    assert metrics["headline"] == {"test": "accuracy"}
    names = {"accuracy", *(f"accuracy_{kind}" for kind in TYPES)}
    for section in (metrics, metrics["chance"], metrics["random_weights"], metrics["text_only"]):
        assert set(section["test"]) == names
    assert metrics["chance"]["test"]["accuracy_existence"] == 50


def test_a_checkpoint_that_answers_holds_its_list(folder: Path) -> None:
    checkpoint = load_checkpoint(Path("products/models/vqa"))
    assert {"yes", "no", "one", "two", "three"} <= set(checkpoint.config["facts"]["answers"])
    record = Shards(Path("products/data/questions"), "test")[0]
    (best,) = load(Path("products/models/vqa")).ask([record.image], [record.captions[0]])
    assert best[0].text == predictions_of("vqa")[0]["answer"]


def test_the_behaviour_of_a_kind_that_judges_one_picture_is_tested(folder: Path) -> None:
    metrics = metrics_of("entailment")
    assert set(metrics["behaviour"]) >= {"overall", "accepted", "count", "unrelated"}
    table = pq.read_table("products/results/entailment/behaviour.parquet")
    assert set(table["test"].to_pylist()) == set(metrics["behaviour"]) - {"overall", "accepted"}
    metrics = metrics_of("nlvr2")
    assert "behaviour" not in {*metrics, *metrics["chance"]}
    none = pq.read_table("products/results/nlvr2/behaviour.parquet")
    assert none.num_rows == 0
    assert none.schema == table.schema


def test_text_assignment_is_scored_on_every_split(folder: Path) -> None:
    metrics = metrics_of("text_assignment")
    assert {"test", "pairs"} <= set(metrics)
    assert metrics["chance"]["test"]["accuracy"] == pytest.approx(100 / 3)
