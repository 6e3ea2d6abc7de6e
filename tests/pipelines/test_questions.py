"""A run that answers questions, through the stages: from a checkpoint to metrics."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from albef.data.shards import Shards
from albef.export.torch_model import load
from albef.models.weights import load_checkpoint
from tests.pipelines.test_training import ingest_unchecked, step, values, work
from tests.tasks.test_vqa_parity import vqa_config

SPLITS = {"train": 6, "val": 2, "test": 4}


@pytest.fixture(scope="module")
def answered(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was fine-tuned and evaluated."""
    folder = tmp_path_factory.mktemp("project")
    params = values()
    source = {"kind": "questions", "objects": 6, "pixels": 32, "splits": SPLITS, "questions": 4}
    params["datasets"]["questions"] = params["datasets"]["scenes"] | {"sources": {"q": source}}
    sizes = {"global_batch_size": 4, "micro_batch_size": 4, "max_tokens": 16}
    params["tasks"]["vqa"] = vqa_config(image_size=16, dataset="questions", **sizes).model_dump()
    params["evaluate"]["splits"] = ["test"]
    work(folder, params)
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("slots")))
        os.chdir(folder)
        try:
            ingest_unchecked("questions")
            shutil.copytree(tiny_checkpoint, "products/models/pretrained")
            for name in ("search", "finetune", "evaluate"):
                step(name, "vqa")
        finally:
            os.chdir(before)
    return folder


def test_metrics_by_type_stand_beside_three_baselines(answered: Path) -> None:
    metrics = json.loads((answered / "products/metrics/vqa.json").read_text())
    assert metrics.pop("headline") == {"test": "accuracy"}
    assert set(metrics) == {"test", "chance", "random_weights", "text_only"}
    names = {"accuracy", *(f"accuracy_{t}" for t in ("existence", "count", "object", "relation"))}
    for section in (metrics["test"], *(metrics[b]["test"] for b in set(metrics) - {"test"})):
        assert set(section) == names
    assert metrics["chance"]["test"]["accuracy_existence"] == 50


def test_predictions_have_a_row_a_question(answered: Path) -> None:
    path = answered / "products/results/vqa/predictions.parquet"
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 4 * SPLITS["test"]
    right = [row["answer"] in row["truths"] for row in rows]
    metrics = json.loads((answered / "products/metrics/vqa.json").read_text())
    assert metrics["test"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_the_checkpoint_holds_the_list_and_answers(answered: Path) -> None:
    folder = answered / "products/models/vqa"
    checkpoint = load_checkpoint(folder)
    assert checkpoint.kind == "vqa"
    assert {"yes", "no", "one", "two", "three"} <= set(checkpoint.config["facts"]["answers"])
    record = Shards(answered / "products/data/questions", "test")[0]
    (best,) = load(folder).ask([record.image], [record.captions[0]])
    path = answered / "products/results/vqa/predictions.parquet"
    assert best[0].text == pq.read_table(path)["answer"][0].as_py()
