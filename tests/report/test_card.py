"""The model card of a run, and of a release."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from albef.export.calibration import Judged, describe
from albef.io import read_json, write_json
from albef.layout import Layout, Paths
from albef.report.card import Card, Dataset, Evaluation, Measured, read, render
from tests.data.toy import LICENCE

METRICS: dict[str, Any] = {
    "test": {"accuracy": 60.0},
    "pairs": {"accuracy": 70.0},
    "things": {"zero_shot_balanced_accuracy": 90.0},
    "behaviour": {"count": 81.25, "overall": 80.0},
    "chance": {
        "test": {"accuracy": 28.0},
        "things": {"zero_shot_balanced_accuracy": 100 / 24},
        "behaviour": {"count": 50.0},
    },
    "random_weights": {
        "test": {"accuracy": 5.0},
        "things": {"zero_shot_balanced_accuracy": 5.0},
        "behaviour": {"count": 49.0},
    },
    "text_only": {"test": {"accuracy": 27.0}},
}
LICENCES = [LICENCE, {"what": "photos", "licence": "CC0", "attribution": "", "url": ""}]
DESCRIBED = {
    "digest": "d" * 64, "splits": {"pairs": 4, "test": 9, "train": 20},
    "sources": [{"kind": "questions"}], "licences": LICENCES,
}  # fmt: skip
FREE = {**DESCRIBED, "licences": []}
EVALUATION = Evaluation(
    "questions", "test", 9, "d" * 64, True, "accuracy", {}, {"accuracy": 60.0}, {"accuracy": 28.0}
)
CARD = Card(
    run="mine",
    kind="vqa",
    does="answers questions about a picture (`ask`)",
    hub="visual-question-answering",
    reads={"image_size": 64, "max_tokens": 25, "max_words": 30, "answering": {"by": "rank"}},
    precisions=(),
    evaluation=EVALUATION,
    metrics=METRICS,
    datasets=(
        Dataset("questions", "test", DESCRIBED), Dataset("free", "training of mine", FREE),
        Dataset("web", "pre-training"),
    ),
    provenance={"checkpoint, SHA-256": "c" * 64},
)  # fmt: skip


def front(card: Card) -> dict[str, Any]:
    """The front matter, as YAML has it."""
    _, text, _ = render(card).split("---\n", 2)
    values: dict[str, Any] = YAML(typ="safe").load(text)
    return values


def test_a_run_without_an_export_has_a_card() -> None:
    text = render(CARD)
    for line in (
        "# mine",
        'model = albef.load("CHECKPOINT")  # the folder models/mine',
        "| metric | torch | chance | random weights | text only |",
        "| `accuracy` | 60 | 28 | 5 | 27 |",
        "Split `pairs`, in torch:",
        "Split `things`, zero-shot classification by class names, in torch:",
        "| `zero_shot_balanced_accuracy` | 90 | 4.167 | 5 |",
        "## Behavior tests",
        "| `count` | 81.25 | 50 | 49 |",
        "**questions**, test: 20 train, 9 test, 4 pairs; sources: questions; SHA-256 `"
        + "d" * 64
        + "`.",
        "- pictures: CC0, nobody (https://a.test)",
        "- photos: CC0",
        "- no licence is named",
        "- It only gives answers from its list, even if none of them is correct.",
        "| checkpoint, SHA-256 | `" + "c" * 64 + "` |",
    ):
        assert line in text.splitlines(), line
    assert "Comparison with the released version" not in text
    assert "no behavior tests" not in text
    assert text == render(CARD)


def test_the_card_of_an_evaluated_checkpoint_of_vqa_is_made_without_an_export(
    tmp_path: Path,
) -> None:
    layout = Layout(Paths(root=str(tmp_path), models=str(tmp_path / "models")))
    config = {"kind": "vqa", "values": {"image_size": 64, "max_tokens": 25, "answering": "rank"}}
    write_json(layout.metrics("mine"), METRICS | {"headline": {"test": "accuracy"}})
    write_json(layout.model("mine") / "config.json", config)
    params = {"tasks": {"mine": {"dataset": "questions", "init": "pretrained", "epochs": 1}},
              "pretrain": {"dataset": "web"}}  # fmt: skip
    card = read(params, layout, "mine")
    assert card is not None
    assert "only gives answers from its list" in render(card)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    values = front(CARD)
    assert values["pipeline_tag"] == "visual-question-answering"
    assert "license" not in values
    (model,) = values["model-index"]
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 60}]
    assert result["dataset"] == {"name": "questions", "type": "questions", "split": "test"}
    for name in ('a "quoted": name', "yes", "- x", "ü # y"):
        assert front(replace(CARD, run=name))["model-index"][0]["name"] == name


def test_calibration_as_the_export_stage_stores_it(tmp_path: Path) -> None:
    judged = Judged(np.log([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]), np.array([0.0, 1.0, 1.0]))
    write_json(tmp_path / "metrics.json", {"calibration": describe(judged, 1.7)})
    stored = read_json(tmp_path / "metrics.json")["calibration"]
    text = render(replace(CARD, calibration=stored))
    table = text.partition("| minimum probability | answered | correct |\n")[2].splitlines()
    assert table[1] == "| 0 | 100 | 66.67 |"
    assert "| 0.8 | 33.33 | 100 |" in table
    assert "| 0.95 | 0 |  |" in table
    assert f"{stored['ece']:.2f} percentage points" in text
    assert f"{stored['ece_before']:.2f} without the temperature 1.7" in text


def test_an_export_has_its_precisions_and_a_release_the_comparison() -> None:
    new = {"int8": Measured({"accuracy": 59.0}, {})}
    card = replace(
        CARD,
        precisions=("int8",),
        evaluation=replace(EVALUATION, new=new, records=5, whole=False, machine="a machine"),
    )
    text = render(card)
    assert "| metric | torch | int8 | chance |" in text.splitlines()
    assert "5 records (the first ones)" in text
    assert front(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 59
    assert "onnx" in front(card)["tags"]
    rows = [("accuracy", "int8", "58", "59", "+1", "-1")]
    released = replace(card, version="v0.2.0", note="Beside v0.1.0.", rows=rows)
    text = render(released)
    for line in (
        "# mine v0.2.0",
        "dvc artifacts get ADDRESS mine --rev v0.2.0",
        "| accuracy | int8 | 58 | 59 | +1 | -1 |",
        "Times are medians of whole calls with decoded images on a machine.",
    ):
        assert line in text.splitlines(), line


def test_a_poor_model_says_so_and_one_without_metrics_has_no_result_in_front() -> None:
    poor = replace(EVALUATION, torch={"accuracy": 28.0})
    assert "is not better than chance" in render(replace(CARD, evaluation=poor))
    assert "is not better than chance" not in render(CARD)
    empty = replace(EVALUATION, torch={}, primary="", chance={})
    assert "model-index" not in front(replace(CARD, evaluation=empty))
