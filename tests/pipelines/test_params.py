"""The whole file: built-in values, presets, contradictions."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import ParamsError, read_yaml
from pipelines.params import explain, kinds, load

ROOT = Path(__file__).parents[2]
BUILT_IN = ROOT / "presets/built-in.yaml"
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the files that values name."""
    monkeypatch.chdir(tmp_path)
    Path("behaviour").symlink_to(ROOT / "behaviour")
    Path("models/albef-4m").mkdir(
        parents=True
    )  # what docs/how-to/import-a-checkpoint.md has imported before


def sentences(values: dict[str, Any]) -> str:
    """What is wrong with the values of a file; "" where nothing is."""
    YAML(typ="safe").dump(values, Path("params.yaml"))
    try:
        load(Path("params.yaml"))
    except ParamsError as error:
        return str(error)
    return ""


def test_each_preset_composes_to_the_values_that_it_is_known_for() -> None:
    for preset in PRESETS:
        params: Any = load(preset)
        root = "products" + ("" if preset.stem in ("built-in", "all-tasks") else f"/{preset.stem}")
        assert params.paths.root == root
        pretrain, retrieval = params.pretrain, next(iter(params.tasks.values()))
        temperature = 0.03 if preset.stem == "flickr8k" else 0.07
        assert (pretrain.alpha_itc, pretrain.temperature) == (0.4, temperature)
        assert retrieval.alpha == 0.4
        if preset.stem == "smoke":
            assert set(params.tasks) == set(kinds())
        if preset.stem.startswith("paper"):
            vqa = params.tasks["vqa"]
            assert (pretrain.lr, pretrain.schedule) == (1e-4, "original")
            assert (pretrain.momentum, pretrain.mlm_probability) == (0.995, 0.15)
            assert (pretrain.queue_size, pretrain.augment.crop) == (65536, (0.2, 1.0))
            assert (params.runtime.processes, pretrain.window) == (8, 100)
            assert pretrain.global_batch_size == 8 * pretrain.micro_batch_size
            assert (vqa.max_answers, vqa.answer_k, vqa.image_size) == (3128, 128, 384)


def test_a_dataset_of_ones_own_is_four_lines() -> None:
    values = read_yaml(BUILT_IN)
    values["datasets"]["mine"] = {
        "sources": {"mine": {"kind": "folder", "path": "photos", "split": "train"}}
    }
    values["pretrain"]["keep_epochs"] = [2]
    values["tasks"]["vqa"]["init"] = "pretrained/epochs/2"
    assert not sentences(values)
    mine: Any = load(Path("params.yaml")).datasets["mine"]
    assert (mine.shard_mb, mine.longest_side) == (512, None)
    assert (mine.duplicates, mine.screened) == ("keep", False)


def test_every_value_is_explained_with_its_sentence_and_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALBEF_RUNTIME__THREADS", "3")
    text = explain(BUILT_IN).splitlines()
    assert f"seed: 1  # {BUILT_IN}" in text
    values = read_yaml(BUILT_IN)
    assert f"pretrain.epochs: {values['pretrain']['epochs']}  # {BUILT_IN}" in text
    assert "    Passes over the train split; 0 trains nothing." in text
    assert "runtime.threads: 3  # ALBEF_RUNTIME__THREADS" in text
    assert "datasets.web.store: null  # default of RowsConfig" in text
    assert "tasks.vqa.augment.flip: false  # default of TrainingConfig" in text
    shift = values["validate"]["drift"]["evaluation"]["shift"]
    assert f"validate.drift.evaluation.shift.warn: {shift['warn']}  # {BUILT_IN}" in text
    assert "validate.drift.accepted.shift.warn: 0.25  # default of DriftConfig" in text
    lines = explain(BUILT_IN, "tasks.retrieval.lr").splitlines()
    assert lines[0].startswith("tasks.retrieval.lr: 0.0006")
    with pytest.raises(ParamsError, match=r"has no serch; did you mean search\."):
        explain(BUILT_IN, "serch")


def changed(key: str, value: Any) -> str:
    """The sentences of the built-in file with one value changed (or, if None, removed)."""
    values = read_yaml(BUILT_IN)
    *parents, last = key.split(".")
    section = values
    for part in parents:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return sentences(values)


def test_a_view_is_scored_by_what_did_not_learn_from_it() -> None:
    values = read_yaml(BUILT_IN)
    own = {"dataset": "web", "by": "models/albef-4m", "keep": 0.6}
    values["curate"] = {"clean": own, "third": own | {"dataset": "clean"}}
    values["pretrain"]["dataset"] = values["tasks"]["retrieval"]["dataset"] = "third"
    values["pretrain"]["source_weights"] = {"pictures": 2.0}
    assert not sentences(values)
    for changed_view, circle in (
        ({"by": "./products/models/pretrained/epochs/2"}, "pretrained"),
        ({"by": "products/models/retrieval"}, "retrieval <- pretrained"),  # which starts from it
        ({"dataset": "third"}, "curate.third <- curate.clean"),
    ):
        values["curate"]["clean"] = own | changed_view
        told = sentences(values)
        assert told.startswith("params.yaml: curate: circular dependency")
        assert circle in told
    values["pretrain"]["dataset"] = "web"
    values["curate"] = {"third": own | {"by": "products/models/pretrained"}}
    assert not sentences(values)  # of a view that only a run reads, pre-training may be the judge
    values["curate"]["web"] = own
    assert "curate.web: a dataset has this name" in sentences(values)


VIEW = {"dataset": "web", "by": "earlier", "keep": 0.6}
NEGATIVE = {"low": -1.0, "high": 1.0, "log": False, "start": 0.5}
EXPORT = {"dataset": "scenes", "split": "test", "examples": None, "precisions": {"float32": 1.0}}


WRONG: list[tuple[str, Any, str]] = [
    ("pretrian", {}, "pretrian is not a known key; did you mean pretrain?"),
    ("seed", None, "params.yaml: seed is missing"),
    ("seed", -1, "seed: input should be greater than or equal to 0, got -1"),
    ("tasks.retrieval.kind", "retreival", "retrieval"),
    ("tasks.retrieval.dataset", "scene", "scenes"),
    ("curate", None, "curate is missing; add `curate: {}`"),
    ("curate", {"a": VIEW | {"dataset": "wep"}}, "curate.a.dataset: 'wep' is not one of the d"),
    ("curate", {"a": VIEW}, "curate.a.by: there is no checkpoint earlier; set"),
    ("curate", {"a": VIEW | {"threshold": 0.5}}, "set either keep (a share) or threshold"),
    ("curate", {"a": {"dataset": "web", "by": "earlier"}}, "set either keep (a share) or thre"),
    ("curate", {"A b": VIEW}, "curate.A b: a name must consist of lowercase"),
    ("tasks.retrieval.init", "pretraind", "pretrained"),
    ("pretrain.dataset", "webb", "web"),
    ("export.runs", {"retreival": EXPORT}, "export.runs.retreival: 'retreival' is not one of"),
    ("export.runs", {"retrieval": EXPORT | {"dataset": "scene"}}, "'scene' is not one of the"),
    ("pretrain.augment", {"crop": [1.0, 0.5]}, "crop starts at 1, above its end 0.5"),
    ("datasets.web.duplicates", "drop_near", "drop_near needs ingest.near_distance"),
    ("validate.accepted", {"web": "profiles/web.json"}, "accepted.web: the accepted profile "),
    ("validate.accepted", {"wep": "profiles/web.json"}, "not one of the datasets; did you me"),
    ("validate.accepted", {"web": "web.json"}, "web.json must be in profiles"),
    (
        "validate.drift.accepted",
        {"shift": {"warn": 2.0, "stop": 1.0}},
        "warn (2) must not exceed st",
    ),
    ("evaluate.reference", {"retrieva": {}}, "'retrieva' is not one of the runs; did you mean"),
    ("evaluate.behaviour.tests", "none.json", "behavior tests none.json: No"),
    ("tasks.vqa.init", "vqa", "tasks.vqa.init: circular dependency vqa <- vqa"),
    ("tasks.retrieval.init", "gpt", "`albef import` adds"),
    ("tasks.retrieval.init", "pretrained/epochs/3", "pretrained does not keep epoch 3"),
    ("runtime.device", "gpu", "must be auto, cpu, cuda or cuda:N"),
    ("runtime.processes", 2, "1 micro-batches of 32 are not a multiple of runtime.proc"),
    ("pretrain.keep_epochs", [9], "keep_epochs has 9, but the run has"),
    ("pretrain.source_weights", {"scene": 2.0}, "'scene' is not one of the sources of web; di"),
    ("pretrain.micro_batch_size", 5, "is not a multiple of micro_batch_size 5"),
    ("pretrain.mlm_probability", 3.0, "pretrain.mlm_probability: input should be less than or eq"),
    ("tasks.retrieval.lr", -1.0, "should be greater than or equal to 0"),
    ("tasks.retrieval.lr", NEGATIVE, "should be greater than or equal to 0"),
]


def test_a_wrong_value_names_its_key_and_what_was_meant() -> None:
    told = [(changed(key, value), says) for key, value, says in WRONG]
    assert [(sentence, says) for sentence, says in told if says not in sentence] == []
    assert all(sentence.startswith("params.yaml: ") for sentence, _ in told)
    changed("tasks.vqa.init", "vqa")
    with pytest.raises(ParamsError, match="circular dependency"):  # which `albef plan` would follow
        load(Path("params.yaml"), related=False)
