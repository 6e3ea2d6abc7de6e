"""A checkpoint of the original code, put into the graph without any pre-training."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from albef.commands.importing import import_original, write
from albef.models.matching import chance_recalls
from albef.models.weights import load_checkpoint
from pipelines import evaluate
from pipelines.params import load
from pipelines.stage import Stage
from tests.commands.test_importing import HEADS, original
from tests.original import TOKENS
from tests.pipelines.test_training import ingest_unchecked, step, values, work


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, in which an imported checkpoint went through the stages of a run."""
    folder = tmp_path_factory.mktemp("brought")
    torch.save({"model": original("retrieval")}, folder / "original.pth")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    write(
        import_original(folder / "original.pth", tokenizer=folder / "vocab.txt", heads=HEADS),
        folder / "products" / "models" / "brought",
    )
    params = values(
        tasks__retrieval__init="brought", tasks__retrieval__epochs=0, tasks__retrieval__lr=1e-5
    )
    source = params["datasets"]["scenes"]["sources"]["scenes"]
    source["splits"] = {"test": 24}  # nothing to train on
    params["pretrain"]["dataset"] = "scenes"
    del params["pretrain"]["source_weights"]  # of the sources of web
    work(folder, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        load(Path("params.yaml"))
        ingest_unchecked("scenes")
        for name in ("search", "finetune", "evaluate"):
            step(name, "retrieval")
        yield folder


def test_it_is_evaluated_without_training(brought: Path) -> None:
    metrics = json.loads((brought / "products/metrics/retrieval.json").read_text())
    assert metrics["chance"]["test"] == chance_recalls(24, 24)
    assert set(metrics["chance"]["test"]) <= set(metrics["test"])
    source = load_checkpoint(brought / "products/models/brought")
    run = load_checkpoint(brought / "products/models/retrieval")
    assert run.model.image.image_size == 48  # the run's; the original's is 32
    for name in ("model.fusion_encoder.layer.1.output.dense.weight", "itm_head.weight"):
        assert torch.equal(run.tensors[name], source.tensors[name])
    assert not (brought / "products/models/pretrained").exists()


def test_a_result_that_is_not_as_reported_fails_after_it_is_written(brought: Path) -> None:
    metrics = Path("products/metrics/retrieval.json")
    reached = json.loads(metrics.read_text())["test"]["r_mean"]
    params = YAML(typ="safe").load(Path("params.yaml").read_text())
    said = {"value": reached + 3.0, "tolerance": 1.0, "source": "nobody"}
    params["evaluate"]["reference"] = {"retrieval": {"r_mean": said}}
    work(Path(), params)
    load(Path("params.yaml"))
    metrics.unlink()
    with pytest.raises(ValueError, match=r"evaluate.reference: r_mean .* -3.00 from .* nobody"):
        evaluate.run(Stage("evaluate", "retrieval"))
    assert json.loads(metrics.read_text())["test"]["r_mean"] == reached
