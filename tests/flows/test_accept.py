"""`albef accept`: what is taken, what is refused, and that nothing else in dvc.lock changes."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError, read_yaml
from flows import graph
from flows.accept import accept
from flows.status import report
from tests.flows.toy import Toy

# DVC's own use of pygtrie
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages ran, by DVC alone."""
    toy = Toy.create(tmp_path_factory.mktemp("made") / "project", Path("unused"))
    toy.sh("dvc repro -q && git add -A && git commit -qm products")
    return toy.path


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def edit(name: str, text: str = "# a comment\n") -> None:
    with open(name, "a") as file:
        file.write(text)


def lock() -> dict[str, Any]:
    return read_yaml(Path("dvc.lock"))


def taken(*files: str) -> dict[str, tuple[str, ...]]:
    return {verdict.stage: verdict.refused for verdict in accept(list(files))}


def test_an_edit_is_taken_for_every_stage_and_changes_its_hash_alone(project: Path) -> None:
    before = lock()
    edit("code/train.py")
    assert taken("code/train.py") == {"pretrain": (), "finetune@retrieval": ()}
    after = lock()
    expected = copy.deepcopy(before)
    new = {
        dep["path"]: dep for dep in after["stages"]["pretrain"]["deps"]
    }["code/train.py"]  # fmt: skip
    for stage in ("pretrain", "finetune@retrieval"):
        for dep in expected["stages"][stage]["deps"]:
            if dep["path"] == "code/train.py":
                dep.update(new)
    assert after == expected
    assert not any(node.stale for node in graph.read().values())
    status = subprocess.run(["git", "log", "-1", "--format=%H"], capture_output=True, text=True)
    record = Path("products/runs/accepted.jsonl").read_text()
    assert status.stdout.strip() in record
    assert '"stages": ["pretrain", "finetune@retrieval"]' in record


def test_an_accepted_edit_holds_after_a_change_of_values_and_back(project: Path) -> None:
    values = Path("params.yaml").read_text()
    edit("code/train.py")
    accept(["code/train.py"])
    toy = Toy(project, Path("unused"))
    Path("params.yaml").write_text(values.replace("seed: 1 # of", "seed: 2 # of"))
    toy.sh("dvc repro -q")
    Path("params.yaml").write_text(values)
    toy.started()
    toy.sh("dvc repro -q")
    assert toy.started() == ["report"]  # the one product that DVC does not keep


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: edit("code/ingest.py"), "code/ingest.py changed"),
        (lambda: edit("products/data/web/part.txt"), "products/data/web of ingest@web changed"),
        (lambda: edit("products/models/pretrained/weights.txt"), "was changed by hand"),
        (lambda: shutil.rmtree("products/models/pretrained"), "is missing"),
        (
            lambda: Path("params.yaml").write_text(
                Path("params.yaml").read_text().replace("seed: 1 # of", "seed: 2 # of")
            ),
            "seed 1 -> 2",
        ),
        (
            lambda: Path("dvc.yaml").write_text(
                Path("dvc.yaml")
                .read_text()
                .replace("toy_stage.py pretrain", "toy_stage.py  pretrain")
            ),
            "its command changed",
        ),
    ],
    ids=["code", "data", "product", "missing", "value", "command"],
)
def test_an_edit_is_refused_where_anything_else_differs(
    project: Path, change: Any, says: str
) -> None:
    edit("code/train.py")
    change()
    before = lock()["stages"]["pretrain"]
    assert any(says in reason for reason in taken("code/train.py")["pretrain"])
    assert lock()["stages"]["pretrain"] == before


def test_files_edited_together_are_taken_together(project: Path) -> None:
    edit("code/train.py")
    edit("code/ingest.py")
    verdicts = taken("code/train.py", "code/ingest.py")
    assert verdicts["pretrain"] == ()
    assert not any(node.stale for node in graph.read().values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("code/train.py", "not edited since"),
        ("code/tran.py", "did you mean code/train.py?"),
        ("products/models/pretrained", "is a product of pretrain, not code"),
        ("params.yaml", "holds values"),
        ("toy_stage.py", "no code that a stage depends on"),
    ],
)
def test_what_is_no_edited_code_is_refused(project: Path, name: str, says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        accept([name])
    assert says in str(caught.value)


def test_status_says_why(project: Path) -> None:
    edit("code/tune.py")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 1 # of", "seed: 3 # of"))
    nodes = graph.read()
    assert nodes["finetune@retrieval"].reasons == ("code/tune.py changed", "seed 1 -> 3")
    assert nodes["finetune@retrieval"].waits == ("pretrain",)
    assert nodes["evaluate@retrieval"].reasons == ()
    assert nodes["evaluate@retrieval"].waits == ("finetune@retrieval",)
    assert os.getcwd() == str(project)


def test_pretraining_that_no_run_starts_from_is_not_needed(project: Path) -> None:
    shutil.copytree("products/models/pretrained", "products/models/brought")
    edit("code/ingest.py")
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("init: pretrained\n", "init: brought\n"))
    nodes = graph.read()
    assert nodes["ingest@web"].stale
    assert (nodes["pretrain"].needed, nodes["pretrain"].stale) == (False, False)
    assert nodes["finetune@retrieval"].reasons
    assert "pretrain" not in nodes["finetune@retrieval"].waits
    assert re.search(r"pretrain +not needed: no run starts from it", report())
