"""The whole file: built-in values, presets, contradictions."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import ParamsError, read_yaml
from pipelines.params import load

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_params_file_loads_strictly(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("behaviour").symlink_to(ROOT / "behaviour")
    Path("profiles").symlink_to(ROOT / "profiles")
    Path("models/albef-4m").mkdir(parents=True)  # what docs/checkpoints.md has imported before
    params = load(path)
    assert set(params.tasks)


def test_a_run_may_start_from_an_epoch_that_is_kept(tmp_path: Path) -> None:
    values = copy.deepcopy(read_yaml(ROOT / "params.yaml"))
    values["pretrain"]["keep_epochs"] = [2]
    values["tasks"]["vqa"]["init"] = "pretrained/epochs/2"
    YAML(typ="safe").dump(values, tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml")


def changed(tmp_path: Path, key: str, value: Any) -> str:
    """The sentences of the built-in file with one value changed (or, if None, removed)."""
    values = copy.deepcopy(read_yaml(ROOT / "params.yaml"))
    *parents, last = key.split(".")
    section = values
    for part in parents:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    path = tmp_path / "params.yaml"
    YAML(typ="safe").dump(values, path)
    with pytest.raises(ParamsError) as caught:
        load(path, name="params.yaml")
    return str(caught.value)


EXPORT = {"dataset": "scenes", "split": "test", "examples": None, "precisions": {"float32": 1.0}}


def test_behaviour_tests_of_a_data_set_that_is_not_there_are_told(tmp_path: Path) -> None:
    case = {"key": "k", "caption": "a key", "changed": "a dog"}
    rule = {"expects": "changed", "cases": [case], "dataset": "scene"}
    suite = {"source": "", "common": [], "tests": {"own": rule}}
    (tmp_path / "own.json").write_text(json.dumps(suite))
    sentence = changed(tmp_path, "evaluate.behaviour.tests", str(tmp_path / "own.json"))
    assert "own.json: tests.own.dataset: 'scene' is not one of the datasets" in sentence
    assert "did you mean scenes?" in sentence


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("pretrian", {}, "pretrian is not a known section; did you mean pretrain?"),
        ("seed", None, "params.yaml: seed is missing"),
        ("seed", -1, "seed must be a whole number from 0, got -1"),
        ("data_seed", None, "params.yaml: data_seed is missing"),
        ("data_seed", True, "data_seed must be a whole number from 0, got True"),
        ("tasks.retrieval.rerank_k", -1, "tasks.retrieval.rerank_k: input should be greater than"),
        ("pretrain.epoch", 3, "pretrain.epoch is not a known key; did you mean pretrain.epochs?"),
        ("tasks.retrieval.kind", "retreival", "retrieval"),
        ("tasks.retrieval.dataset", "scene", "scenes"),
        ("tasks.retrieval.init", "pretraind", "pretrained"),
        ("pretrain.dataset", "webb", "web"),
        ("export.runs", {"retreival": EXPORT}, "export.runs.retreival: 'retreival' is not one of"),
        ("export.runs", {"retrieval": EXPORT | {"dataset": "scene"}}, "'scene' is not one of the"),
        ("export.runs", {"retrieval": EXPORT | {"precisions": {"int4": 1}}}, "int4"),
        ("export.runs", {}, "export.runs"),
        ("release.max_drop", -1.0, "release.max_drop: input should be greater than or equal to 0"),
        ("release.max_slow", 2.0, "release.max_slow is not a known key; did you mean release.max_"),
        ("datasets.web.sources.scenes.kind", "scnes", "scenes"),
        ("datasets.web.augment.crop", [1.0, 0.5], "crop starts at 1, above its end 0.5"),
        (
            "datasets.web.accepted",
            "profiles/web.json",
            "datasets.web.accepted: the accepted profile profiles/web.json is missing: get it back",
        ),
        ("datasets.web.accepted", None, "datasets.web.accepted is missing"),
        (
            "datasets.web.evaluated_on",
            "profiles/web.json",
            "datasets.web.evaluated_on: the accepted profile profiles/web.json is missing: get it",
        ),
        ("validate.drift.accepted.shift.warn", 2.0, "shift: warn (2) is beyond stop (1)"),
        ("evaluate.reference", {"retrieva": {}}, "'retrieva' is not one of the runs; did you mean"),
        ("evaluate.behaviour.tests", "none.json", "behaviour tests none.json cannot be read: No"),
        ("evaluate.behaviour.threshold", 1.0, "evaluate.behaviour.threshold: input should be less"),
        ("tasks.retrieval.init", "gpt", "`albef import` makes one of an original"),
        ("tasks.retrieval.init", "pretrained/epochs/3", "pretrained does not keep epoch 3"),
        ("runtime.processes", 2, "1 micro-batches of 32 cannot be shared equally by 2 processes"),
        ("runtime.processes", 0, "runtime.processes"),
        ("pretrain.keep_epochs", [9], "keep_epochs has 9, but there are 4 epochs"),
        (
            "pretrain.source_weights",
            {"scene": 2.0},
            "'scene' is no source of its data; did you me",
        ),
        ("pretrain.source_weights", {"scenes": -2.0}, "pretrain.source_weights.scenes: input shou"),
        ("pretrain.micro_batch_size", 5, "global_batch_size 32 is no multiple of micro_batch_size"),
        ("tasks.retrieval.lr.start", 1.0, "tasks.retrieval.lr: start 1 is outside"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_was_meant(
    tmp_path: Path, key: str, value: object, says: str
) -> None:
    sentence = changed(tmp_path, key, value)
    assert says in sentence
    assert sentence.startswith("params.yaml: ")
