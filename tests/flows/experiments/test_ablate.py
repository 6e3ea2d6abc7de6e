"""`albef ablate` on a toy project: real clones, real DVC, real processes."""

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import psutil
import pytest

from albef.config import ParamsError, read_yaml, validate
from flows import git, run
from flows.experiments import variations
from flows.experiments.ablate import Ablation, ablate
from flows.experiments.clone import CloneError, Variation
from flows.values import compose, overridden
from pipelines.params import load
from tests.flows.conftest import assert_ended
from tests.flows.toy import ROOT, Toy

STEPS = """
run: retrieval
steps:
  - {name: plain, values: {evaluate.batch_size: 32, pretrain.itc: false}}
  - {name: more, values: {pretrain.itc: false}}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A project with a preset and steps; nothing of it has run."""
    toy = Toy.create(tmp_path_factory.mktemp("toy") / "project", tmp_path_factory.mktemp("home"))
    values = (toy.path / "params.yaml").read_text()
    values = values.replace("root: products", "root: products/toy")
    values = values.replace("models: products/", "models: products/toy/")
    (toy.path / "presets/toy.yaml").write_text(values.replace("batch_size: 64", "batch_size: 96"))
    (toy.path / "ablations").mkdir()
    (toy.path / "ablations/toy.yaml").write_text(STEPS)
    toy.sh("git add -A && git commit -qm steps")
    return toy


@pytest.fixture
def here(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project; each training's values are checked in this process, which has torch."""
    toy.enter(monkeypatch)

    def check(runs: Sequence[Variation]) -> None:
        for variation in runs:
            path = toy.path / "do" / f"{variation.name}.yaml"
            path.write_text(variation.params)
            load(path)

    monkeypatch.setattr(variations, "check", check)


def clones(toy: Toy) -> list[Path]:
    return sorted((toy.path / ".dvc/tmp/variations").glob("clone-*"))


def started(toy: Toy) -> Counter[str]:
    folders = [str(clone.relative_to(toy.path)) for clone in clones(toy)]
    return Counter(name for folder in folders for name in toy.started(folder))


def stages(
    toy: Toy, process: "subprocess.Popen[str]", name: str, count: int
) -> list[psutil.Process]:
    """The processes of a stage, once it is at work in so many clones."""
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        logs = [log for clone in clones(toy) if (log := clone / "started.log").exists()]
        last = [lines[-1].split() for log in logs if (lines := log.read_text().splitlines())]
        found = [int(pid) for stage, pid in last if stage.startswith(name)]
        if len(found) == count:
            return [psutil.Process(pid) for pid in found]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_steps_share_what_they_can_are_never_run_twice_and_go_on_where_one_failed(
    toy: Toy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def ablated() -> str:
        caplog.clear()
        ablate((), 1, "toy", "toy")
        return capsys.readouterr().out

    caplog.set_level("INFO", "albef")
    before = (toy.path / "params.yaml").read_text()
    toy.do("fail-finetune", "once")
    with pytest.raises(CloneError) as caught:
        ablated()
    assert str(caught.value) == (
        "toy-plain-seed1: finetune@retrieval: the line went dead (exit code 74)"
    )
    assert "toy-more-seed1: 2 stages ran; 2 of 2" in caplog.text
    assert started(toy) == {
        "ingest@web": 1, "ingest@scenes": 1, "pretrain": 1, "finetune@retrieval": 2,
        "evaluate@retrieval": 1,
    }  # fmt: skip
    told = ablated()
    assert "toy-plain-seed1: 1 stages ran; 1 of 1" in caplog.text
    assert started(toy) == {"evaluate@retrieval": 1}
    names = {"toy-plain-seed1", "toy-more-seed1"}
    assert set(toy.sh("dvc exp list --all-commits --name-only").split()) == names
    assert (toy.path / "params.yaml").read_text() == before
    assert not toy.sh("git status --porcelain")
    assert not (toy.path / "products").exists()
    assert re.search(r"toy-plain-seed1 -> toy-more-seed1 +0.62 +0.88 +\+0.25", told)
    page = (toy.path / ".albef/compare/toy.html").read_text()
    assert "<code>evaluate.batch_size</code>" in page
    assert ablated() == told
    assert not started(toy)


@pytest.mark.slow
def test_an_ablation_that_was_killed_or_interrupted_resumes(toy: Toy) -> None:
    command = "ablate --preset toy --steps toy --name killed --set pretrain.lr=2e-3"
    command += " --seeds 2 --jobs 2"
    toy.do("sleep-evaluate", "600")
    process = toy.start(command)
    found = stages(toy, process, "evaluate", 2)
    busy = toy.albef(command, fails=True)
    assert f"experiments are already in progress in this clone (process {process.pid})" in busy
    process.kill()
    assert_ended(found)  # nothing goes on unseen
    process.communicate()
    assert started(toy)["pretrain"] == 2

    process = toy.start(command)
    found = stages(toy, process, "evaluate", 2)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "run the same command again" in told
    assert_ended(found)
    toy.do("sleep-evaluate")
    started(toy)
    told = toy.albef(command)
    assert "4 of 4" in told
    assert re.search(r"killed-more +2 .*  \+0.25 .\+0.25 to \+0.25.  better", told)
    assert started(toy) == {"evaluate@retrieval": 4}


@pytest.mark.usefixtures("here")
def test_what_cannot_work_is_a_sentence(toy: Toy) -> None:
    wrong = Path("ablations/wrong.yaml")  # not in git: only what is in git must be as there
    for preset, old, new, parts in (
        ("ablatoin", "", "", ("ablatoin", "did you mean ablation?")),
        ("bring-your-own", "", "", ("wrong.yaml: run retrieval", "bring-your-own.yaml")),
        ("toy", "name: more", "name: plain", ("two steps have the name plain",)),
        ("toy", "evaluate.batch_size: 32", "pretrain.lr: fast", ("pretrain.lr: input should",)),
        ("toy", "steps:", "rungs:", ("rungs is not a known key",)),
    ):
        wrong.write_text(STEPS.replace(old, new, 1))
        with pytest.raises(ParamsError) as caught:
            ablate(["evaluate.batch_size=8"], 1, preset, "wrong")
        assert all(part in str(caught.value) for part in parts), caught.value
    wrong.unlink()


def test_code_that_is_not_committed_is_refused_and_values_are_not_looked_at(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, values = toy.path / "code/train.py", toy.path / "params.yaml"
    before = code.read_text(), values.read_text()
    code.write_text("# another\n")
    values.write_text(before[1] + "# mine\n")
    toy.enter(monkeypatch)
    with pytest.raises(ParamsError, match=r"uncommitted changes: code/train.py; commit or"):
        variations.clean()
    code.write_text(before[0])
    extra = toy.path / "albef/tune/extra.py"
    extra.write_text("# a stage would read it, and a clone lacks it\n")
    with pytest.raises(ParamsError, match=r"not track: albef/tune/extra.py; add"):
        variations.clean()
    with pytest.raises(ParamsError, match=r"--name .* not track: albef/tune/extra.py; add"):
        run.run(name="mine")
    extra.unlink()
    assert variations.clean() == git.git("rev-parse", "HEAD")
    assert values.read_text() == before[1] + "# mine\n"
    values.write_text(before[1])


def test_every_step_of_the_project_loads_strictly_and_is_another(tmp_path: Path) -> None:
    presets = (ROOT / "presets").glob("ablation*.yaml")
    for file, preset in product((ROOT / "ablations").glob("*.yaml"), presets):
        steps = validate(Ablation, read_yaml(file), where=str(file)).steps
        whole, texts = compose(preset), []
        for step in steps:
            given = [f"{key}={'null' if v is None else v}" for key, v in step.values.items()]
            texts.append(overridden(whole, given, step.name))
            (tmp_path / "params.yaml").write_text(texts[-1])
            assert load(tmp_path / "params.yaml")
        assert len(set(texts)) == len(steps)
        assert whole in texts
