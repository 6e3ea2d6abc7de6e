"""The report of real products, whole and in parts: made by the stages' own writers, small."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import ParamsError
from albef.data.record import Record
from albef.ingest import shard_writer
from albef.training.tracking import Tracker
from albef.validation.result import Check, DriftResult
from pipelines import evaluate, report
from pipelines.stage import Stage, write_json
from tests.conftest import CAPTIONS, tiny_config
from tests.data import toy
from tests.report.test_page import Page

ROOT = Path(__file__).parents[2]
EVIL = "a <script>alert(1)</script> dog"


def _record(number: int, split: str, **meta: Any) -> Record:
    caption = EVIL if number == 3 else f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
    return toy.record(number, split=split, captions=(caption,), meta=meta)


def _data(folder: Path) -> dict[str, Any]:
    records = [_record(i, "train", noise="wrong") for i in range(4)]
    records += [_record(i, "val") for i in range(4, 6)]
    records += [_record(i, "test", unseen=i % 2 == 0) for i in range(6, 18)]
    changes = ("relation", "count", "object")
    records += [_record(i, "pairs", pair=i // 2, change=changes[i // 2 % 3]) for i in range(18, 30)]
    licence = {
        "what": "pictures",
        "licence": "CC BY 9",
        "attribution": "Ann <b>",
        "url": "http://a",
    }
    return shard_writer.write(
        folder,
        folder.name,
        records,
        shard_mb=1,
        licences=[licence],
        sources=[{"name": "placed", "kind": "scenes", "splits": {"train": 4}}],
    )


DRIFT: tuple[tuple[str, str, str, float | None, float, float, str], ...] = (
    ("accepted", "", "divergence", 0.21, 0.1, 0.5, "warned"),
    ("evaluation", "", "divergence", 0.02, 0.1, 0.5, "met"),
    ("evaluation", "flickr", "divergence", 0.03, 0.1, 0.5, "met"),
)


def _validated(folder: Path, digest: str) -> None:
    check = Check("keys are unique", "e", "records.key", True, 30, 0, 0.0, "", "", ())
    words = {"least": 2.0, "median": 6.0, "most": 11.0}
    result = {
        "dataset": folder.name,
        "digest": digest,
        "passed": True,
        "checks": [asdict(check)],
        "statistics": {"captions": 30, "words of a caption": words},
        "moved": [asdict(DriftResult("vocabulary", "train", *far)) for far in DRIFT],
    }
    write_json(folder / "result.json", result)


def _trained(folder: Path) -> None:
    tracker = Tracker(folder, {})
    for step in (9, 19):
        losses = {f"train/{name}": 3.0 / step for name in ("loss", "itc", "itm", "mlm")}
        tracker.log(step, losses | {"lr": 1e-3 / step})
        tracker.log(step, {"val/r_mean": 10.0 + step, "val/itc_r_mean": 8.0 + step})
    tracker.log(29, {"train/itc": float("nan")})
    tracker.close()


def _record_of(stage: Stage, name: str, seconds: float) -> None:
    git = {"revision": "f" * 40, "clean": True}
    write_json(
        stage.layout.record(name),
        {"stage": name, "seconds": seconds, "machine": "toy", "git": git, "peak_memory_mib": 300},
    )


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with params.yaml and all products of a tiny run; copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("project")
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    values["runtime"] |= {"device": "cpu", "threads": 1}
    values["evaluate"]["behaviour"]["tests"] = str(ROOT / "behaviour/english.json")
    lr = {"low": 1e-5, "high": 1e-3, "log": True, "start": 1e-4}
    values |= {
        "datasets": {"scenes": {}},
        "pretrain": {"dataset": "scenes"},
        "tasks": {"retrieval": tiny_config().model_dump() | {"lr": lr}},
        "report": {"examples": 4},
    }
    (folder / "params.yaml").write_text(json.dumps(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage = Stage("evaluate", "retrieval")
        layout = stage.layout
        described = _data(layout.data("scenes"))
        _validated(layout.validation("scenes"), described["digest"])
        _trained(layout.curves("retrieval"))
        shutil.copytree(tiny_checkpoint, layout.model("retrieval"))
        evaluate.run(stage)
        trial = {"number": 0, "state": "complete", "params": {"lr": 2e-4}, "values": [50.0]}
        write_json(layout.search("retrieval") / "choice.json", {"lr": 2e-4})
        write_json(
            layout.search("retrieval") / "trials.json",
            {"trials": [trial | {"value": 50.0, "start": True}]},
        )
        write_json(layout.export("retrieval") / "manifest.json", {"format": 1, "files": {"a": "b"}})
        for name in ("ingest@scenes", "evaluate@retrieval"):
            _record_of(stage, name, 75.0)
    return folder


@pytest.fixture
def here(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the products, which is the working folder."""
    shutil.copytree(products, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def made() -> str:
    stage = Stage("report", "")
    report.run(stage)
    html = stage.layout.report().read_text()
    assert stage.record["bytes"] == len(html.encode())
    return html


def test_it_shows_everything_there_is(here: Path) -> None:
    page = Page(made())
    metrics = json.loads(Path("products/metrics/retrieval.json").read_text())
    for part in (
        f"{metrics['test']['r_mean']:.1f} %",
        "chance",
        "random weights",
        "right decisions, relation",
        "12 pictures",
        "things never seen together",
        "ITC loss",
        "MLM loss",
        "On the validation split, after each epoch",
        "caption wrong on purpose",
        "1 of 1 expectations met",
        "2 to 11, median 6",
        "CC BY 9",
        "Ann <b>",
        "Chosen: lr: 2e-4, of 1 trial.",
        "2.5 min in all, at most 300 MiB",
        "No run record of validate@scenes, pretrain, search@retrieval, finetune@retrieval,",
        "said in other words",
        "of the true texts are said to be true, in split test",
        "export of retrieval",
        "Git ffffffffffff",
    ):
        assert part in page.text, part
    pictures = [a for a in page.addresses if a.startswith("data:image/png;base64,")]
    assert len(pictures) > 40


def test_a_caption_cannot_become_markup(here: Path) -> None:
    page = Page(made())
    assert "script" not in page.tags
    assert EVIL in page.text


def test_equal_products_give_equal_bytes_anywhere(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made()
    shutil.copytree(here, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert made() == first
    assert str(tmp_path) not in first


def test_values_that_change_only_speed_do_not_change_it(here: Path) -> None:
    first = made()
    values = json.loads(Path("params.yaml").read_text())
    values["runtime"]["workers"] += 1
    Path("params.yaml").write_text(json.dumps(values))
    assert made() == first


def test_digests_are_compared_with_what_is_at_hand(here: Path) -> None:
    config = Path("products/models/retrieval/config.json")
    assert "another one than the one at hand" in Page(made()).text  # the toy's digest is invented
    values = json.loads(config.read_text())
    described = json.loads(Path("products/data/scenes/dataset.json").read_text())
    values["provenance"] |= {"data": described["digest"], "parent": "x", "parent_weights": "0"}
    config.write_text(json.dumps(values))
    text = Page(made()).text
    assert "the one at hand" in text
    assert "another one than" not in text
    assert "not here to compare with" in text


def test_each_evaluated_run_has_a_card_that_the_page_links_to(here: Path) -> None:
    page = Page(made())
    assert "cards/retrieval.md" in page.addresses
    written = {path.name for path in Path("products/report/data").iterdir()}
    assert written == {a.removeprefix("data/") for a in page.addresses if a.startswith("data/")}
    card = Path("products/report/cards/retrieval.md").read_text()
    metrics = json.loads(Path("products/metrics/retrieval.json").read_text())
    for part in (
        "# retrieval",
        'model = albef.load("CHECKPOINT")  # the folder models/retrieval',
        f"value: {metrics['test']['r_mean']:.4g}",
        "| metric | torch | chance | random weights |",
        "Split `pairs`, in torch:",
        "CC BY 9",
        "squeezed to 16 x 16 pixels",
    ):
        assert part in card, part
    Path("products/metrics/retrieval.json").unlink()
    assert "cards/retrieval.md" not in Page(made()).addresses
    assert not list(Path("products/report/cards").iterdir())


def test_the_card_of_an_export_has_its_precisions(here: Path, tiny_export: Path) -> None:
    shutil.rmtree("products/exports/retrieval")
    shutil.copytree(tiny_export, "products/exports/retrieval")
    scores = {name: {"r_mean": value} for name, value in (("torch", 40.0), ("int8", 39.0))}
    write_json(Path("products/metrics/exports/retrieval.json"), scores | {"bytes": {"int8": 1}})
    made()
    card = Path("products/report/cards/retrieval.md").read_text()
    assert "as ONNX in float32, int8" in card
    assert "| `r_mean` | 40 | 39 |" in card
    assert "manifest, SHA-256" in card


def _remove(path: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("products/metrics/retrieval.json", "has not been evaluated yet"),
        ("products/results", "There are no examples, since"),
        ("products/results/retrieval/behaviour.parquet", "Behaviour tests are not shown, since"),
        ("products/data/scenes", "There are no pictures, since"),
        ("products/validation", "has not been validated yet"),
        ("products/curves", "There are no curves yet"),
        ("products/search", "There has been no search yet"),
        ("products/models", "There is no checkpoint yet"),
        ("products/models/retrieval/model.safetensors", "not here"),
        ("products/exports", "Provenance"),
        ("products/runs", "There are no run records"),
    ],
)
def test_a_missing_product_is_told_in_plain_words(here: Path, path: str, told: str) -> None:
    _remove(path)()
    assert told in Page(made()).text


def test_before_the_first_stage_there_is_a_page_too(here: Path) -> None:
    shutil.rmtree("products")
    assert "No run has been evaluated yet" in Page(made()).text


def test_a_run_without_ranges_had_nothing_to_search(here: Path) -> None:
    write_json(Path("products/search/retrieval/choice.json"), {})
    write_json(Path("products/search/retrieval/trials.json"), {"trials": []})
    assert "there was nothing to search" in Page(made()).text


def test_data_that_changed_since_validation_is_told(here: Path) -> None:
    path = Path("products/validation/scenes/result.json")
    write_json(path, json.loads(path.read_text()) | {"digest": "0" * 64, "passed": False})
    text = Page(made()).text
    assert "validated before it changed" in text
    assert "refused" in text


def test_drift_is_told(here: Path) -> None:
    text = Page(made()).text
    assert "Drift from the accepted profile: 1 of 1 beyond a limit" in text
    assert "Drift of the training split from the evaluation splits: none of 1 beyond" in text
    assert "from the evaluation splits of flickr: none of 1 beyond" in text
    assert "0.210 nats" in text


def test_a_damaged_product_is_one_sentence(here: Path) -> None:
    Path("products/metrics/retrieval.json").write_text("{")
    with pytest.raises(ValueError, match=r"retrieval\.json is no JSON"):
        made()


def test_it_is_strict_about_its_values(here: Path) -> None:
    values = json.loads(Path("params.yaml").read_text())
    Path("params.yaml").write_text(json.dumps(values | {"report": {"exampels": 4}}))
    with pytest.raises(ParamsError, match=r"report\.exampels is not a known key.*report\.examples"):
        made()


def test_it_needs_no_torch(here: Path) -> None:
    code = (
        "import sys; from pipelines import report; from pipelines.stage import Stage\n"
        "report.run(Stage('report', ''))\n"
        "print({'torch', 'transformers', 'great_expectations', 'dvc', 'prefect'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
