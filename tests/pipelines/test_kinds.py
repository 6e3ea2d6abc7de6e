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


def test_each_run_starts_from_the_one_before(folder: Path) -> None:
    checkpoint = load_checkpoint(Path("products/models/nlvr2"))
    parent = file_digest(Path("products/models/text_assignment/model.safetensors"))
    assert checkpoint.kind == "nlvr2"
    assert checkpoint.config["provenance"]["parent_weights"] == parent
    choice = json.loads(Path("products/search/entailment/choice.json").read_text())
    assert set(choice) == {"lr"}


def test_the_metrics_follow_from_the_predictions_and_stand_beside_baselines(folder: Path) -> None:
    for run, chance in (("entailment", 100 / 3), ("nlvr2", 50), ("vqa", None)):
        metrics: dict[str, Any] = json.loads(Path(f"products/metrics/{run}.json").read_text())
        rows = pq.read_table(f"products/results/{run}/predictions.parquet").to_pylist()
        rows = [row for row in rows if row["split"] == "test"]
        shards = Shards(Path("products/data") / RUNS[run], "test")
        if chance is None:
            assert len(rows) == sum(map(len, shards.captions))
            right = [row["answer"] in row["truths"] for row in rows]
        else:
            assert metrics["chance"]["test"]["accuracy"] == pytest.approx(chance)
            assert len(rows) == len(shards)
            right = [row["answer"] == row["predicted"] for row in rows]
        assert metrics["test"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))
        assert set(metrics["random_weights"]["test"]) == set(metrics["test"])
        cases = pq.read_table(f"products/results/{run}/behaviour.parquet")["test"].to_pylist()
        rates = metrics.get("behaviour", {"overall": 0, "accepted": 0})
        assert set(cases) == set(rates) - {"overall", "accepted"}
        assert bool(cases) == (run == "entailment")  # of kinds that judge one picture
        if run == "vqa":
            types = ("existence", "count", "object", "relation")
            names = {"accuracy", *(f"accuracy_{kind}" for kind in types)}
            for section in (metrics, metrics["chance"], metrics["text_only"]):
                assert set(section["test"]) == names
            assert metrics["chance"]["test"]["accuracy_existence"] == 50
            record = shards[0]
            (best,) = load(Path("products/models/vqa")).ask([record.image], [record.captions[0]])
            assert best[0].text == rows[0]["answer"]
    metrics = json.loads(Path("products/metrics/text_assignment.json").read_text())
    for split in ("test", "pairs"):
        assert metrics["chance"][split]["accuracy"] == pytest.approx(100 / 3)
