"""The chain of a product, from an export back to the files that its data were read from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef.commands import lineage as command
from albef.io import file_digest
from albef.lineage import LineageError, Step
from albef.runtime.manifest import NAME, graph_file
from tests.products import ROOT, params
from tests.products import products as products
from tests.products import project as project

EXPORT = Path("products/exports/retrieval")
WEIGHTS = Path("products/models/pretrained/model.safetensors")


def lineage(path: Path | str) -> Step:
    return command.lineage(Path(path), command.project_around(Path(path)))


def states(chain: Step) -> list[tuple[str, str, str]]:
    return [(step.what, step.name, step.state) for step in chain.walk()]


def test_an_export_leads_back_to_the_files_of_its_sources(project: Path) -> None:
    chain = lineage(EXPORT)
    assert states(chain) == [
        ("export", "retrieval", "verified"), ("checkpoint", "retrieval", "verified"),
        ("search", "retrieval", "verified"), ("checkpoint", "pretrained", "verified"),
        ("dataset", "web", "verified"), ("source", "rows", ""), ("file", "web.json", "verified"),
        ("dataset", "scenes", "verified"), ("source", "rows", ""),
        ("file", "scenes.json", "verified"),
    ]  # fmt: skip
    assert {step.record.stage for step in chain.walk() if step.record} == {
        "export@retrieval", "finetune@retrieval", "search@retrieval", "pretrain", "ingest@web",
        "ingest@scenes",
    }  # fmt: skip


def test_it_is_a_tree_on_a_terminal_and_whole_as_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(EXPORT, False) == 0
    text = capsys.readouterr().out
    for part in (
        "export retrieval  products/exports/retrieval\n", "8 of 8 files verified; float32, int8",
        "└─ checkpoint retrieval  products/models/retrieval", "chosen: lr 0.0002", "code ",
        "4 train; 8 captions", "licence of pictures: CC BY 9", "outside git", "pretrain, 20",
    ):  # fmt: skip
        assert part in text, part
    assert command.main(EXPORT, True) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["digest"] == file_digest(EXPORT / NAME)
    about = values["origins"][0]["record"]
    assert {"machine", "versions", "seed", "core_hours", "gpu_hours"} <= set(about)


def test_a_checkpoint_that_is_another_by_now_is_reported_and_the_chain_continues(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("products/models/retrieval/model.safetensors", WEIGHTS)
    chain = states(lineage(EXPORT))
    assert ("checkpoint", "pretrained", "changed") in chain
    assert ("dataset", "web", "verified") in chain, "by what its child was told"
    assert command.main(EXPORT, False) == 1
    text = capsys.readouterr().out
    assert f"changed: the local one is {file_digest(WEIGHTS)[:12]}" in text
    assert "pretrain, 20" not in text, "the run record is that of another one"


def test_an_export_alone_tells_what_its_manifest_knows_and_needs_no_more_than_serving(
    project: Path, tmp_path: Path
) -> None:
    shutil.copytree(EXPORT, tmp_path / "got")
    chain = lineage(tmp_path / "got")
    assert {s.state for s in chain.walk() if s.what in ("checkpoint", "dataset")} == {"missing"}
    assert not [step for step in chain.walk() if step.record]
    heavy = ("torch", "pyarrow", "dvc", "prefect", "pandas")
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.modules |= dict.fromkeys({heavy!r})\n"  # importing them fails
        "from albef.commands.lineage import main\n"
        f"main(Path('got') / {graph_file('int8', 'matcher')!r}, False)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    for part in ("export retrieval", "checkpoint pretrained", "dataset web", "licence of pictures",
                 "kind pairs", "missing locally", "4 train"):  # fmt: skip
        assert part in ended.stdout, part


def test_a_file_of_an_export_that_was_changed_or_left_out_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(EXPORT / "int8")
    assert lineage(EXPORT).state == "verified", "a precision may be left out"
    with (EXPORT / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert command.main(EXPORT, False) == 1
    text = capsys.readouterr().out
    assert "changed: tokenizer.json" in text
    files = json.loads((EXPORT / NAME).read_text())["files"]
    assert f"missing: {', '.join(name for name in files if name.startswith('int8/'))}" in text


def test_every_artifact_has_a_chain(project: Path) -> None:
    for path, first, origins in (
        ("models/retrieval/config.json", "checkpoint", ["search", "checkpoint", "dataset"]),
        ("data/web/index.parquet", "dataset", ["source"]),
        ("search/retrieval/choice.json", "search", []),
    ):
        chain = lineage(Path("products") / path)
        assert (chain.what, [origin.what for origin in chain.origins]) == (first, origins)
        assert chain.state == "verified"


def test_data_that_changed_are_reported(project: Path) -> None:
    shutil.copy("products/data/scenes/index.parquet", "products/data/web/index.parquet")
    Path("scenes.json").write_text("[1]")
    changed = {(what, name) for what, name, state in states(lineage(EXPORT)) if state == "changed"}
    assert changed == {("dataset", "web"), ("file", "scenes.json")}


def test_an_imported_checkpoint_comes_from_its_file(project: Path) -> None:
    config = WEIGHTS.with_name("config.json")
    values = json.loads(config.read_text())
    values["provenance"] = {"imported": "ALBEF.pth", "file": "f" * 64}
    config.write_text(json.dumps(values))
    chain = lineage(WEIGHTS)
    assert states(chain)[1:] == [("file", "ALBEF.pth", "missing")]
    assert chain.origins[0].digest == "f" * 64
    assert chain.record is None


def test_artifacts_of_a_preset_are_its_own(project: Path) -> None:
    Path("presets").mkdir()
    YAML(typ="safe").dump(params("products/small"), Path("presets/small.yaml"))
    shutil.copytree("products/models", "products/small/models")
    shutil.move("products/data", "products/small/data")
    chain = lineage("products/small/models/pretrained")
    assert states(chain)[:2] == [
        ("checkpoint", "pretrained", ""),  # no record there names it
        ("dataset", "web", "verified"),
    ]


def test_what_has_no_chain_is_an_error(project: Path) -> None:
    for path, message in (
        ("nowhere", "nowhere is missing: give the path of an artifact, or `dvc pull` it"),
        ("params.yaml", "params.yaml is not an artifact: give an export"),
        ("products", "products is not an artifact"),
    ):
        with pytest.raises(LineageError, match=f"^{message}"):
            lineage(path)


def test_a_damaged_file_is_named(project: Path) -> None:
    config = WEIGHTS.with_name("config.json")
    for file, content, message in (
        (EXPORT / NAME, "{", "manifest.json is not valid JSON"),
        (EXPORT / NAME, "[]", "manifest.json is malformed: AttributeError"),
        (config, "[1]", "pretrained/config.json is malformed: Attr"),
        (Path("products/runs/pretrain.json"), '{"made": 1}', "pretrain.json: made"),
        (Path("products/data/web/index.parquet"), "x", "index.parquet is damaged"),
        (Path("params.yaml"), "paths: 3", "params.yaml: paths"),
    ):
        whole = file.read_bytes()
        file.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            lineage(EXPORT)
        assert "\n" not in str(error.value)
        file.write_bytes(whole)
