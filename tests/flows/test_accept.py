"""`albef accept` takes an edit and changes nothing else; `albef data accept` makes a suite."""

import difflib
import hashlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from albef.config import ParamsError, read_yaml
from albef.data.shards import ShardError
from albef.io import read_json
from albef.validation.result import ValidationFailedError
from flows import graph
from flows.accept import accept, accept_data, accept_files
from flows.run import run
from flows.status import report
from pipelines import validate
from pipelines.stage import Stage
from tests.data import toy
from tests.flows.toy import ROOT, Toy
from tests.validation.test_suites import picture


@pytest.fixture(scope="module")
def made(finished: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = finished.copy(tmp_path_factory.mktemp("made") / "project")
    toy.sh("git add -A && git commit -qm products")
    return toy


@pytest.fixture
def project(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.chdir((toy := made.copy(tmp_path / "project")).path)
    return toy


def edit(name: str, text: str = "# a comment\n") -> None:
    with open(name, "a") as file:
        file.write(text)


def lock() -> dict[str, Any]:
    return read_yaml(Path("dvc.lock"))


def taken(*files: str) -> dict[str, tuple[str, ...]]:
    return {verdict.stage: verdict.refused for verdict in accept(list(files))}


def test_an_edit_is_taken_for_every_stage_and_changes_its_hash_alone(project: Toy) -> None:
    expected = lock()
    edit("code/train.py")
    md5 = hashlib.md5(Path("code/train.py").read_bytes()).hexdigest()
    assert taken("code/train.py") == {"pretrain": (), "finetune@retrieval": ()}
    for stage in ("pretrain", "finetune@retrieval"):
        (dep,) = [d for d in expected["stages"][stage]["deps"] if d["path"] == "code/train.py"]
        dep |= {"md5": md5, "size": Path("code/train.py").stat().st_size}
    assert lock() == expected
    assert not any(node.stale for node in graph.read().values())
    record = read_json(Path("products/runs/finetune@retrieval.json"))
    assert record["code"]["code/train.py"] == md5
    for name in ("code/train.py", "code/tran.py", "products/models/pretrained", "params.yaml"):
        with pytest.raises(ParamsError, match=rf"{name}: no stage ran .*; edited code: none"):
            accept([name])


@pytest.mark.slow
def test_edits_accepted_together_hold_after_a_change_of_values_and_back(project: Toy) -> None:
    edit("code/train.py")
    edit("code/ingest.py")
    assert taken("code/train.py", "code/ingest.py")["pretrain"] == ()
    assert not any(node.stale for node in graph.read().values())
    for old, new in (("seed: 1 # of", "seed: 2 # of"), ("seed: 2 # of", "seed: 1 # of")):
        project.started()
        replace("params.yaml", old, new)
        project.repro()
    assert project.started() == ["report"]  # the one product that DVC does not keep


def replace(name: str, old: str, new: str) -> None:
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new))


def test_a_run_takes_an_edit_of_comments_and_makes_anew_what_other_code_makes(
    project: Toy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.enter(monkeypatch)
    caplog.set_level("INFO", "albef")
    edit("albef/tune/lr.py", "# a comment\n\n")
    project.checked()
    assert re.search(
        r"finetune@retrieval +fresh.*\n +changed without effect: albef/tune/lr", report()
    )
    assert run(dry=True) == run() == 0
    assert "albef/tune/lr.py changed without effect: accepted for finetune@r" in caplog.text
    told = capsys.readouterr().out
    assert "nothing would run" in told
    assert "nothing to do" in told
    project.repro()
    assert project.started() == [], "dvc.lock is fresh"
    edit("albef/tune/loop.py", "# one more\n")
    edit("albef/tune/lr.py", "LR = 1\n")
    project.checked()
    assert run(dry=True) == 0
    assert "albef/tune/lr.py changed" in capsys.readouterr().out
    code = Path("albef/tune/lr.py").read_text()
    edit("albef/tune/lr.py", "LR = (\n")
    assert graph.read()["finetune@retrieval"].stale, "what cannot be parsed"
    Path("albef/tune/lr.py").write_text(code)
    project.repro()
    assert "finetune@retrieval" in project.started()


def test_an_edit_is_refused_where_anything_else_differs(project: Toy) -> None:
    before = lock()
    edit("code/train.py")
    edit("code/ingest.py")
    edit("products/data/web/part.txt")
    edit("products/models/pretrained/weights.txt")
    shutil.rmtree("products/models/retrieval")
    replace("params.yaml", "seed: 1 # of", "seed: 2 # of")
    replace("dvc.yaml", "py pretrain", "py  pretrain")
    refused = taken("code/train.py")
    assert set(refused["pretrain"]) == {
        "its command changed",
        "seed 1 -> 2",
        "code/ingest.py changed",
        "products/data/web of ingest@web changed",
        "products/models/pretrained was changed by hand; DVC's cache has the original",
    }
    assert any("products/models/retrieval is missing" in it for it in refused["finetune@retrieval"])
    assert lock() == before


def test_of_a_folder_the_edited_files_are_named_and_taken(project: Toy) -> None:
    def reasons() -> tuple[str, ...]:
        return graph.read()["finetune@retrieval"].reasons

    Path("albef/tune/more.py").write_text("# new\n")
    edit("albef/tune/lr.py")
    assert reasons() == ("albef/tune/lr.py changed", "albef/tune/more.py is new")
    assert taken("albef/tune/lr.py") == {"finetune@retrieval": ("albef/tune/more.py is new",)}
    assert taken("albef/tune/lr.py", "albef/tune/more.py") == {"finetune@retrieval": ()}
    assert reasons() == ()
    Path("albef/tune/loop.py").unlink()  # beside the code as it was accepted
    assert reasons() == ("albef/tune/loop.py is gone",)
    assert taken("albef/tune") == {"finetune@retrieval": ()}
    assert reasons() == ()
    edit("albef/tune/lr.py")
    Path("products/runs/finetune@retrieval.json").unlink()
    unknown = "albef/tune changed (the run record does not list its files)"
    assert taken("albef/tune/lr.py") == {"finetune@retrieval": (unknown,)}
    assert taken("albef/tune") == {"finetune@retrieval": ()}


def test_status_says_why_and_that_pretraining_is_not_needed_where_no_run_starts_from_it(
    project: Toy,
) -> None:
    edit("albef/tune/lr.py", "LR = 2\n")
    replace("params.yaml", "seed: 1 # of", "seed: 3 # of")
    nodes = graph.read()
    assert nodes["finetune@retrieval"].reasons == ("albef/tune/lr.py changed", "seed 1 -> 3")
    assert nodes["finetune@retrieval"].waits == ("pretrain",)
    assert nodes["evaluate@retrieval"].reasons == ()
    shutil.copytree("products/models/pretrained", "products/models/brought")
    edit("code/ingest.py")
    replace("params.yaml", "init: pretrained\n", "init: brought\n")
    nodes = graph.read()
    assert (nodes["pretrain"].needed, nodes["pretrain"].stale) == (False, False)
    assert "pretrain" not in nodes["finetune@retrieval"].waits
    assert re.search(r"pretrain +not needed: no run starts from it", report())
    by = "products/models/pretrained/epochs/2"
    replace(
        "params.yaml", "curate: {}", f"curate: {{clean: {{dataset: web, by: {by}, keep: 0.6}}}}"
    )
    assert graph.read()["pretrain"].needed


@pytest.mark.usefixtures("project")
def test_a_damaged_file_is_named() -> None:
    whole = Path("dvc.lock").read_bytes()
    cut = whole[: whole.rindex(b"md5:") + 2]  # within a key
    for content, says in (
        (cut, r"^dvc\.lock is .* run `git checkout dvc\.lock`"),
        (b"<<<<<<< HEAD\n" + whole, r"^dvc\.lock is not valid: .*; resolve its git conflict"),
    ):
        Path("dvc.lock").write_bytes(content)
        with pytest.raises(ParamsError, match=says):
            graph.read()
    Path("params.yaml").write_text("")
    with pytest.raises(ParamsError, match=r"^params\.yaml must be a mapping"):
        accept_files([Path("code/train.py")])


@pytest.mark.usefixtures("project")
def test_a_lock_that_dvc_is_writing_is_read_when_it_is_whole() -> None:
    whole = Path("dvc.lock").read_bytes()
    with Repo(".") as repo, ThreadPoolExecutor() as pool:
        with repo.lock:
            Path("dvc.lock").write_bytes(whole[: whole.rindex(b"md5:") + 2])
            nodes = pool.submit(graph.read)
            with pytest.raises(TimeoutError):
                nodes.exception(timeout=1)
            Path("dvc.lock").write_bytes(whole)
        assert not any(node.stale for node in nodes.result().values())


def write(caption: str) -> None:
    records = [
        toy.record(i, image=picture(i), captions=(caption,), split="train" if i < 15 else "test")
        for i in range(20)
    ]
    folder = Path("products/data/scenes")
    for old in folder.rglob("*.*"):
        old.unlink()
    toy.write(folder, records)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALBEF_RUNTIME__SCRATCH", str(tmp_path / "scratch"))
    values = (ROOT / "presets/built-in.yaml").read_text()
    values = values.replace("max_repeated_captions: 0.0", "max_repeated_captions: 1.0")
    (tmp_path / "params.yaml").write_text(values)
    (tmp_path / "dvc.yaml").touch()
    write("one dog left of some apples")
    return tmp_path


def validated() -> None:
    validate.run(Stage("validate", "scenes"))


def test_a_dataset_is_accepted_and_later_versions_are_held_to_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, error, says in (
        ("scene", ParamsError, "has no dataset scene; did you mean scenes"),
        ("web", ShardError, "ingest@web"),
        ("scenes", ParamsError, "profile.json is missing; run `albef run --only"),
    ):
        with pytest.raises(error, match=says):
            accept_data(name)
    validated()
    suite = here / "profiles/scenes.json"
    suite.parent.mkdir()
    suite.write_text("{}")
    with pytest.raises(ParamsError, match=r"profiles/scenes.json exists, but params.yaml does not"):
        accept_data("scenes")
    suite.unlink()

    before = (here / "params.yaml").read_text().splitlines()
    text = accept_data("scenes")
    assert "profile of scenes to profiles/scenes.json" in text
    assert "refused" not in text
    after = (here / "params.yaml").read_text().splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changed == ["+   accepted: {scenes: profiles/scenes.json}"]
    with monkeypatch.context() as patch:  # pictures are decoded once for all thresholds
        patch.setattr("albef.validation.image_stats.read_image_stats", None)
        validated()
    write("something else is said here and goes on")
    with pytest.raises(ParamsError, match="describes an earlier version of scenes"):
        accept_data("scenes")
    with pytest.raises(ValidationFailedError, match=r"\(validate.drift.accepted.divergence.stop\)"):
        validated()
    assert not (here / "products/verdicts/scenes.json").exists()
    assert "It refused this version of scenes." in accept_data("scenes")
    validated()
    assert (here / "products/verdicts/scenes.json").exists()


def test_status_says_that_a_lock_may_be_cut_off(project: Toy) -> None:
    path, entries = Path("dvc.lock"), lock()["stages"]
    cut = path.read_text().index("  evaluate@retrieval:")
    path.write_text(path.read_text()[:cut])
    assert set(lock()["stages"]) < set(entries), "what remains is valid"
    text = report()
    lost = ", ".join(name for name in graph.read() if name in entries.keys() - lock()["stages"])
    assert f"dvc.lock may be cut off: it has no entry for {lost}; " in text
    assert "run `git checkout dvc.lock`" in text
    assert re.search("evaluate@retrieval +stale: its artifacts exist, but dvc.lock has no", text)
