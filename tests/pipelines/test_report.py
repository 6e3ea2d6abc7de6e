"""The report of real products, whole and in parts: made by the stages' own writers, small."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import report
from pipelines.stage import Stage, write_json
from tests.products import EVIL, ROOT
from tests.products import products as products
from tests.products import project as project
from tests.report.test_page import Page


def made() -> str:
    stage = Stage("report", "")
    report.run(stage)
    html = stage.layout.report().read_text()
    assert stage.record["bytes"] == len(html.encode())
    return html


def card() -> str:
    return Path("products/report/cards/retrieval.md").read_text()


def test_it_shows_everything_there_is_and_no_caption_becomes_markup(project: Path) -> None:
    page = Page(made())
    metrics = json.loads(Path("products/metrics/retrieval.json").read_text())
    for part in (
        EVIL,
        f"{metrics['test']['r_mean']:.1f} %",
        "chance",
        "random weights",
        "correct answers, reversed",
        "12 records",
        "Of 12 text queries, this one has the median rank",
        "ITC loss",
        "MLM loss",
        "Validation split, after each epoch",
        "wrong caption (added noise)",
        "1 of 1 expectations met",
        "2 to 11, median 6",
        "CC BY 9",
        "Ann <b>",
        "Chosen from 1 trial: lr: 2e-4. r_mean is 50.0, with the start values 50.0.",
        "min in total, at most",
        "paraphrase",
        "It accepts",
        "Not in a git repository",
        "verified",
        "Drift from the accepted profile: 1 of 1 beyond a limit",
        "Drift of the training split from the evaluation splits: 0 of 1 beyond",
        "0.210 nats",
    ):
        assert part in page.text, part
    assert "differs" not in page.text
    assert not {"script", "link"} & set(page.tags)
    allowed = ("#", "data:image/webp;", "data/", "cards/", "http://a")
    assert all(address.startswith(allowed) for address in page.addresses)
    assert sum(a.startswith("data:image/webp;base64,") for a in page.addresses) > 40
    links = {a.removeprefix("data/") for a in page.addresses if a.startswith("data/")}
    assert links == {path.name for path in Path("products/report/data").glob("*.html")}


def test_a_run_is_judged_by_the_first_split_that_params_name(project: Path) -> None:
    assert page_starts_with("test")
    values = json.loads(Path("params.yaml").read_text())
    values["evaluate"]["splits"] = ["pairs", "test"]
    values["export"] = {"runs": {"retrieval": {"dataset": "scenes"}}}
    Path("params.yaml").write_text(json.dumps(values))
    assert page_starts_with("pairs")
    assert "Split `test` of `scenes`" in card(), "the default of an export's split"
    del values["export"]
    Path("params.yaml").write_text(json.dumps(values))
    assert page_starts_with("pairs")
    assert "Split `pairs` of `scenes`" in card()


def page_starts_with(split: str) -> bool:
    primary = {"test": "mean of the six recalls", "pairs": "correct answers"}[split]
    return primary == made().partition('<p class="what">')[2].partition("</p>")[0]


def test_equal_artifacts_give_equal_bytes_anywhere_and_at_any_speed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made()
    shutil.copytree(project, tmp_path / "elsewhere", symlinks=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    values = json.loads(Path("params.yaml").read_text())
    values["runtime"]["workers"] += 1
    Path("params.yaml").write_text(json.dumps(values))
    assert made() == first
    assert str(tmp_path) not in first


def test_each_evaluated_run_has_a_card_that_the_page_links_to(project: Path) -> None:
    assert "cards/retrieval.md" in Page(made()).addresses
    for part in (
        "as ONNX in float32, int8",
        "| metric | torch | int8 | chance | random weights |",
        "| `r_mean` | 40 | 39 |",
        "value: 39",
        "manifest, SHA-256",
        "Split `pairs`, in torch:",
        "CC BY 9",
        "resized to 16 x 16 pixels",
    ):
        assert part in card(), part
    write_json(Path("products/exports/retrieval/manifest.json"), {"format": 1})  # too old to read
    made()
    assert 'model = albef.load("CHECKPOINT")  # the folder models/retrieval' in card()
    Path("products/metrics/retrieval.json").unlink()
    assert "cards/retrieval.md" not in Page(made()).addresses
    assert not list(Path("products/report/cards").iterdir())


MISSING = {
    "metrics/retrieval.json": "has not been evaluated yet",
    "results": "Examples are not shown because",
    "results/retrieval/behaviour.parquet": "Behavior tests are not shown because",
    "data/scenes": "Images are not shown because",
    "validation": "has not been validated yet",
    "curves": "There are no curves yet",
    "search": "has not been searched yet",
    "models": "missing locally",
    "models/retrieval/model.safetensors": "missing locally",
    "exports": "Provenance",
    "runs": "There are no run records",
    "runs/pretrain.json": "No run record of pretrain,",
    "": "No run has been evaluated yet",  # as before the first stage
}


def test_a_missing_artifact_is_reported_in_plain_words(project: Path, tmp_path: Path) -> None:
    for path, sentence in MISSING.items():
        gone = Path("products") / path
        gone.rename(tmp_path / "gone")
        assert sentence in Page(made()).text, path
        shutil.rmtree(gone, ignore_errors=True)  # what the report made anew
        (tmp_path / "gone").rename(gone)


def test_a_run_without_ranges_and_data_that_changed_since_validation_are_reported(
    project: Path,
) -> None:
    write_json(Path("products/search/retrieval/choice.json"), {})
    write_json(Path("products/search/retrieval/trials.json"), {"trials": []})
    path = Path("products/validation/scenes/result.json")
    write_json(path, json.loads(path.read_text()) | {"digest": "0" * 64, "passed": False})
    text = Page(made()).text
    for part in ("no value is a range", "changed since it was validated", "failed"):
        assert part in text


def test_it_needs_no_torch(project: Path) -> None:
    code = (
        "import sys; from pipelines import report; from pipelines.stage import Stage\n"
        "report.run(Stage('report', ''))\n"
        "print({'torch', 'transformers', 'great_expectations', 'dvc', 'prefect'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
