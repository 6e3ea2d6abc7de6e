"""Which stages of the real graph an edit makes stale, in a clone whose artifacts are stand-ins."""

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from albef.io import write_json
from flows import graph, values
from flows.accept import accept, accept_harmless
from flows.status import report
from pipelines.stage import Stage
from tests.flows.toy import ROOT

FEW = """
base: smoke
drop: [
  tasks.nlvr2, tasks.text_assignment, tasks.grounding, export.runs.nlvr2, export.runs.grounding,
  datasets.comparisons, datasets.expressions
]
ingest: {heldout: [scenes, questions, statements]}
"""
"""A preset with a run of each of three families."""


def clone(folder: Path) -> None:
    """Copy the project as it is, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *words], cwd=folder, check=True)


def finish() -> None:
    """Make every stage of the clone fresh: an artifact of some bytes each, and its run record."""
    with Repo(".") as repo, contextlib.redirect_stdout(io.StringIO()):
        stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
        for stage in stages:
            for out in stage.outs:
                path = Path(str(out))
                file = path if path.suffix else path / "artifact"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("{}" if path.suffix == ".json" else stage.name)
        repo.commit(force=True)
    for stage in stages:
        made = Stage(*stage.name.partition("@")[::2])
        made.record_code()
        write_json(values.layout().record(stage.name), made.record)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "project"
    clone(folder)
    with contextlib.chdir(folder):
        Path("presets/few.yaml").write_text(FEW)
        values.prepare("few", [])
        finish()
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which every stage is fresh."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def stale() -> set[str]:
    """The stages that a run would start or start after others."""
    return {name for name, node in graph.read().items() if node.stale}


def edit(path: str, text: str = "\n\nNEW = 1\n") -> None:
    with open(path, "a") as file:
        file.write(text)


def is_training(stage: str) -> bool:
    return stage.startswith(("pretrain", "search", "finetune"))


@pytest.mark.usefixtures("trained")
def test_a_new_metric_makes_no_training_stale() -> None:
    assert stale() == set()
    before = report().splitlines()
    edit("albef/metrics/accuracy.py")
    edit("albef/report/metric_names.py")
    later = {name for name in stale() if not name.startswith("export")}
    assert later == {"evaluate@entailment", "report"}
    now = report().splitlines()
    assert [line for line in now if is_training(line)] == [x for x in before if is_training(x)]


@pytest.mark.usefixtures("trained")
def test_an_edit_of_a_helper_makes_only_the_kinds_stale_that_use_it() -> None:
    edit("albef/tasks/ranking.py")
    Path("albef/tasks/another.py").write_text("from albef.tasks import task\n")
    nodes = graph.read()
    ranks = {"search@retrieval", "finetune@retrieval"}
    assert {name for name, node in nodes.items() if is_training(name) and node.stale} == ranks
    vqa = nodes["finetune@vqa"]
    assert vqa.harmless == ("albef/tasks/another.py", "albef/tasks/ranking.py")
    assert "changed without effect: albef/tasks/another.py, albef/tasks/ranking.py" in report()
    accept_harmless({"finetune@vqa": vqa})
    assert graph.read()["finetune@vqa"].harmless == ()
    with Repo(".") as repo:
        assert repo.status(["finetune@vqa"]) == {}, "DVC has nothing to do either"
    edit("albef/tasks/matching.py")
    assert graph.read()["pretrain"].reasons == ("albef/tasks/matching.py changed",)


@pytest.mark.usefixtures("trained")
def test_code_of_metrics_is_not_accepted_until_evaluation_has_run() -> None:
    edit("albef/metrics/vqa.py", "\n# a comment\n")
    assert {verdict.refused for verdict in accept(["albef/metrics/vqa.py"])} == {()}
    assert stale() == set()
    edit("albef/metrics/vqa.py")
    edit("albef/report/wording.py")
    verdicts = {verdict.stage: verdict for verdict in accept(["albef"])}
    assert verdicts["report"].refused == verdicts["evaluate@retrieval"].refused == ()
    (reason,) = verdicts["evaluate@vqa"].refused
    assert re.match(r"albef/metrics/vqa.py computes metrics; run the stage", reason)
    assert stale() == {"evaluate@vqa", "export@vqa", "report"}, "the report waits for both"


@pytest.mark.usefixtures("trained")
def test_code_of_metrics_that_trainings_read_is_accepted_for_trainings_only() -> None:
    edit("albef/tasks/rates.py")
    verdicts = {verdict.stage: verdict for verdict in accept(["albef/tasks/rates.py"])}
    assert verdicts["finetune@retrieval"].refused == ()
    assert "computes metrics" in verdicts["evaluate@retrieval"].refused[0]
    assert not any(is_training(name) for name in stale())
