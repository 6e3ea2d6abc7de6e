"""The chain of a product, from an export back to the files that its data were read from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef.cli import main
from albef.io import file_digest
from albef.lineage.find import lineage
from albef.lineage.show import plain, text
from albef.lineage.step import LineageError, Step
from albef.runtime.manifest import NAME, graph_file
from tests.lineage.conftest import params

EXPORT = Path("products/exports/retrieval")
WEIGHTS = Path("products/models/pretrained/model.safetensors")


def steps(chain: Step) -> list[tuple[str, str, str]]:
    return [(step.what, step.name, step.state) for step in chain.walk()]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command: exit code, and what it says on both streams."""
    with pytest.raises(SystemExit) as ended:
        main(["lineage", *arguments])
    code = int(ended.value.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_export_leads_back_to_the_files_of_its_sources(project: Path) -> None:
    chain = lineage(EXPORT)
    assert steps(chain) == [
        ("export", "retrieval", "verified"),
        ("checkpoint", "retrieval", "verified"),
        ("search", "retrieval", "verified"),
        ("checkpoint", "pretrained", "verified"),
        ("data set", "web", "verified"),
        ("source", "rows", ""),
        ("file", "web.json", "verified"),
        ("data set", "scenes", "verified"),
        ("source", "rows", ""),
        ("file", "scenes.json", "verified"),
    ]
    for step in chain.walk():
        assert step.code is None or step.code[1] == "verified"
        assert step.record is None or step.record.own == "verified"
    records = [step.record.stage for step in chain.walk() if step.record]
    assert records == [
        "export@retrieval", "finetune@retrieval", "search@retrieval", "pretrain", "ingest@web",
        "ingest@scenes",
    ]  # fmt: skip


def test_it_is_a_tree_on_a_terminal_and_whole_as_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, str(EXPORT))
    assert code == 0
    for part in (
        "export retrieval  products/exports/retrieval\n",
        "13 of 13 files verified; float32, int8",
        "└─ checkpoint retrieval  products/models/retrieval",
        "chosen: lr 0.0003",
        "4 train; 8 captions",
        "valid, 1 of 1 expectations met",
        "licence of pictures: CC0",
        "as at hand",
        "outside git",
        "pretrain, 20",
    ):
        assert part in out, part
    code, out, _ = run(capsys, "--json", str(EXPORT))
    told = json.loads(out)
    assert told == json.loads(json.dumps(plain(lineage(EXPORT))))
    assert told["digest"] == file_digest(EXPORT / NAME)
    record = told["origins"][0]["record"]
    assert {"machine", "versions", "seed", "core_hours", "gpu_hours"} <= set(record)


def test_a_checkpoint_that_is_another_by_now_is_told_and_the_chain_goes_on(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("products/models/retrieval/model.safetensors", WEIGHTS)
    found = steps(lineage(EXPORT))
    assert ("checkpoint", "pretrained", "changed") in found
    assert ("data set", "web", "verified") in found, "by what its child was told"
    code, out, _ = run(capsys, str(EXPORT))
    assert code == 1
    assert f"changed: the one at hand is {file_digest(WEIGHTS)[:12]}" in out
    assert "the run record of pretrain is that of another one" in out


def test_an_export_alone_tells_what_its_manifest_knows(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EXPORT, tmp_path / "got")
    code, out, _ = run(capsys, str(tmp_path / "got" / graph_file("int8", "matcher")))
    assert code == 0
    for part in ("export retrieval", "checkpoint pretrained", "data set web", "licence of pictures",
                 "kind pairs", "missing: not here to compare with", "4 train"):  # fmt: skip
        assert part in out, part
    chain = lineage(tmp_path / "got")
    assert {s.state for s in chain.walk() if s.what in ("checkpoint", "data set")} == {"missing"}
    assert not [step for step in chain.walk() if step.record or step.code]


def test_a_file_of_an_export_that_was_changed_or_left_out_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(EXPORT / "int8")
    assert lineage(EXPORT).state == "verified", "a precision may be left out"
    with (EXPORT / "tokenizer.json").open("a") as file:
        file.write(" ")
    code, out, _ = run(capsys, str(EXPORT))
    assert code == 1
    assert "changed: tokenizer.json" in out
    assert f"missing: {', '.join(sorted(_of_int8()))}" in out


def _of_int8() -> list[str]:
    files = json.loads((EXPORT / NAME).read_text())["files"]
    return [name for name in files if name.startswith("int8/")]


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("products/models/retrieval/config.json", "checkpoint", "search"),
        ("products/data/web/index.parquet", "data set", "source"),
        ("products/search/retrieval/choice.json", "search", None),
        ("products/metrics/retrieval.json", "metrics", "checkpoint"),
        ("products/results/retrieval/predictions.parquet", "predictions", "checkpoint"),
        ("products/metrics/exports/retrieval.json", "export metrics", "export"),
        ("products/verdicts/web.json", "verdict", "data set"),
        ("products/validation/web/result.json", "validation", "data set"),
        ("products/runs/pretrain.json", "checkpoint", "data set"),
        ("products/runs/evaluate@retrieval.json", "metrics", "checkpoint"),
    ],
)
def test_every_product_has_a_chain(
    project: Path, path: str, first: str, second: str | None
) -> None:
    chain = lineage(Path(path))
    assert chain.what == first
    assert second is None or chain.origins[0].what == second
    assert chain.state in ("verified", "") or path.startswith("products/validation")


def test_metrics_know_their_checkpoint_by_the_predictions(project: Path) -> None:
    shutil.copy(WEIGHTS, "products/models/retrieval/model.safetensors")
    chain = lineage(Path("products/metrics/retrieval.json"))
    assert chain.state == "verified"
    assert chain.origins[0].state == "changed"


def test_the_chain_of_the_report_is_of_all_that_it_shows(project: Path) -> None:
    Path("products/report").mkdir()
    Path("products/report/index.html").write_text("<p>")
    found = [step.what for step in lineage(Path("products/report/index.html")).origins]
    assert found == ["metrics", "export"]


def test_the_chain_of_a_card_is_of_its_run(project: Path) -> None:
    card = Path("products/report/cards/retrieval.md")
    card.parent.mkdir(parents=True)
    card.write_text("# retrieval")
    chain = lineage(card)
    assert chain.what == "model card"
    assert [step.what for step in chain.origins] == ["metrics", "export"]


def test_data_that_changed_are_told(project: Path) -> None:
    shutil.copy("products/data/scenes/index.parquet", "products/data/web/index.parquet")
    Path("scenes.json").write_text("[1]")
    found = {step.what + step.name: step.state for step in lineage(EXPORT).walk()}
    assert found["data setweb"] == "changed"
    assert found["filescenes.json"] == "changed"


def test_an_edit_of_code_is_told_and_one_of_a_comment_is_not(project: Path) -> None:
    code = Path("pipelines/pretrain.py")
    text_before = code.read_text()
    folder = code.parent
    real = folder.resolve()
    folder.unlink()
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns("__pycache__"))
    code.write_text(f"# Why.\n{text_before}")
    pretrained = lineage(WEIGHTS)
    assert pretrained.code
    assert pretrained.code[1] == "verified"
    code.write_text(f"{text_before}\nx = 1\n")
    pretrained = lineage(WEIGHTS)
    assert pretrained.code
    assert pretrained.code[1] == "changed"
    assert "the code at hand is another" in text(pretrained, project)


def test_a_record_without_its_product_claims_less(project: Path) -> None:
    path = Path("products/runs/pretrain.json")
    values = json.loads(path.read_text())
    del values["made"]
    path.write_text(json.dumps(values))
    chain = lineage(WEIGHTS)
    assert chain.state == ""
    assert "the record does not name its product" in text(chain, project)


def test_an_imported_checkpoint_comes_from_its_file(project: Path) -> None:
    config = Path("products/models/pretrained/config.json")
    values = json.loads(config.read_text())
    values["provenance"] = {"imported": "ALBEF.pth", "file": "f" * 64}
    config.write_text(json.dumps(values))
    chain = lineage(WEIGHTS)
    assert [(o.what, o.name, o.digest, o.state) for o in chain.origins] == [
        ("file", "ALBEF.pth", "f" * 64, "missing")
    ]
    assert chain.record is None


def test_what_was_made_by_an_earlier_version_has_what_it_tells(project: Path) -> None:
    config = Path("products/models/retrieval/config.json")
    values = json.loads(config.read_text())
    for name in ("code", "described", "choice", "parent_provenance"):
        del values["provenance"][name]
    config.write_text(json.dumps(values))
    found = steps(lineage(Path("products/models/retrieval")))
    assert ("checkpoint", "pretrained", "verified") in found
    assert ("data set", "scenes", "verified") in found


def test_products_of_a_preset_are_its_own(project: Path) -> None:
    Path("presets").mkdir()
    YAML(typ="safe").dump(params("products/small"), Path("presets/small.yaml"))
    shutil.copytree("products/models", "products/small/models")
    shutil.copytree("products/data", "products/small/data")
    shutil.rmtree("products/data/web")
    chain = lineage(Path("products/small/models/pretrained"))
    assert chain.name == "pretrained"
    assert chain.origins[0].state == "verified"


def test_a_checkpoint_that_claims_to_come_from_itself_is_a_sentence(project: Path) -> None:
    config = WEIGHTS.with_name("config.json")
    values = json.loads(config.read_text())
    values["provenance"] |= {"parent": "pretrained", "parent_weights": file_digest(WEIGHTS)}
    config.write_text(json.dumps(values))
    with pytest.raises(LineageError, match="comes from itself"):
        lineage(WEIGHTS)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere", "nowhere is not here: give the path of a product, or `dvc pull` it"),
        ("params.yaml", "params.yaml is no product: neither an export"),
        ("products", "products is no product"),
    ],
)
def test_a_path_that_is_no_product_is_a_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"albef lineage: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (EXPORT / NAME, "{", "is no JSON"),
        (EXPORT / NAME, "[]", "holds no mapping"),
        (EXPORT / NAME, '{"provenance": 3}', "manifest.json: provenance: input should be"),
        (EXPORT / NAME, '{"provenance": {"described": {"splits": [1]}}}', "described.splits"),
        (Path("products/runs/pretrain.json"), '{"made": 1}', "pretrain.json: made"),
        (Path("products/data/web/dataset.json"), '{"sources": [1]}', "dataset.json: sources.0"),
        (Path("products/data/web/index.parquet"), "x", "index.parquet is damaged"),
        (Path("products/runs/pretrain.json"), "{", "pretrain.json is no JSON"),
        (Path("params.yaml"), "paths: 3", "params.yaml: paths"),
    ],
)
def test_a_damaged_file_is_a_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], file: Path, content: str, said: str
) -> None:
    file.write_text(content)
    code, _, err = run(capsys, str(EXPORT))
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_an_export_alone_needs_no_more_than_serving_does(project: Path, tmp_path: Path) -> None:
    shutil.copytree(EXPORT, tmp_path / "got")
    heavy = ("torch", "pyarrow", "dvc", "prefect", "pandas")
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({heavy!r})\n"  # importing them fails
        "from albef.cli import main\n"
        "main(['lineage', 'got'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "data set web" in done.stdout
