"""`albef run`, `status` and `accept` on a toy project: real DVC, real Prefect, real processes."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.flows.toy import Toy

ALL = ["evaluate@retrieval", "finetune@retrieval", "ingest@scenes", "ingest@web", "pretrain"]
ALL = sorted([*ALL, "report"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Toy:
    """A project that has run once; tests leave it fresh."""
    toy = Toy.create(tmp_path_factory.mktemp("toy") / "project", home)
    toy.albef("run")
    assert sorted(toy.started()) == ALL
    return toy


def processes(toy: Toy) -> list[psutil.Process]:
    """Living stages of the project."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        if process.info["cwd"] == str(toy.path) and any("toy_stage" in part for part in line):
            found.append(process)
    return found


def wait_for(what: str, toy: Toy, seconds: float = 60) -> None:
    """Wait until a stage has started."""
    deadline = time.monotonic() + seconds
    log = toy.path / "started.log"
    while not (log.exists() and what in log.read_text()):
        assert time.monotonic() < deadline, f"{what} did not start"
        time.sleep(0.1)


def test_nothing_stale_is_said_and_nothing_is_started(toy: Toy) -> None:
    told = toy.albef("run")
    assert "nothing to do: every stage is up to date" in told
    assert "r_mean" in told
    assert "products/report/index.html" in told
    assert toy.started() == []


def test_a_changed_value_runs_what_depends_on_it_and_says_why(toy: Toy) -> None:
    plan = toy.albef("run --set tasks.retrieval.epochs=3 --dry")
    assert "tasks.retrieval" in plan
    assert "pretrain" not in plan.replace("pretrained", "")
    assert toy.started() == []
    told = toy.albef("run --set tasks.retrieval.epochs=3 --name three")
    assert "recorded as experiment three" in told
    assert toy.started() == ["finetune@retrieval", "evaluate@retrieval"]
    assert "three" in toy.sh("dvc exp show --md")


def test_a_wrong_value_is_told_before_the_first_stage_and_nothing_is_written(toy: Toy) -> None:
    before = (toy.path / "params.yaml").read_text()
    told = toy.albef("run --set tasks.retrieval.epoch=3", fails=True)
    assert "did you mean tasks.retrieval.epochs?" in told
    assert "Traceback" not in told
    assert (toy.path / "params.yaml").read_text() == before
    assert toy.started() == []


def test_a_failed_stage_stops_what_depends_on_it_and_shows_its_sentence(toy: Toy) -> None:
    toy.do("fail-pretrain", "the loss is no number")
    told = toy.albef("run --force pretrain", fails=True)
    assert "the loss is no number" in told
    assert "Traceback" not in told
    assert toy.started() == ["pretrain"]
    toy.do("fail-pretrain")
    toy.albef("run")  # the products of before come back from DVC's run cache
    assert "nothing to do" in toy.albef("run")
    assert toy.started() == []


def test_ingest_is_tried_again(toy: Toy) -> None:
    toy.do("fail-ingest", "once")
    toy.albef("run --force ingest@web")
    assert toy.started().count("ingest@web") == 2


def test_an_accepted_comment_runs_nothing_and_other_changes_are_refused(toy: Toy) -> None:
    code = toy.path / "code" / "train.py"
    code.write_text(code.read_text() + "# a comment\n")
    assert "code/train.py changed" in toy.albef("status")
    (toy.path / "code" / "tune.py").write_text("# an edit that matters\n")
    told = toy.albef("accept code/train.py", fails=True)
    assert "pretrain: accepted code/train.py" in told
    assert "finetune@retrieval: refused" in told
    assert "code/tune.py changed" in told
    (toy.path / "code" / "tune.py").write_text("# tune\n")
    assert "finetune@retrieval: accepted" in toy.albef("accept code/train.py")
    assert "nothing to do" in toy.albef("run")
    assert toy.started() == []
    records = (toy.path / "products" / "runs" / "accepted.jsonl").read_text().splitlines()
    assert "code/train.py" in records[-1]
    assert json.loads(records[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_an_interrupted_flow_leaves_no_stage_and_goes_on(toy: Toy, number: int) -> None:
    toy.do("sleep-pretrain", "60")
    flow = toy.start("run --force pretrain", start_new_session=True)
    wait_for("pretrain", toy)
    assert processes(toy)
    os.kill(flow.pid, number)
    flow.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while processes(toy):
        assert time.monotonic() < deadline, "a stage outlived its flow"
        time.sleep(0.2)
    toy.do("sleep-pretrain")
    toy.started()
    toy.albef("run --force pretrain")
    assert "pretrain" in toy.started()
    assert "nothing to do" in toy.albef("run")


def test_a_second_run_in_the_same_clone_is_refused(toy: Toy) -> None:
    toy.do("sleep-report", "20")
    flow = toy.start("run --force report", start_new_session=True)
    wait_for("report", toy)
    told = toy.albef("run", fails=True)
    assert str(flow.pid) in told
    os.kill(flow.pid, signal.SIGINT)
    flow.communicate(timeout=60)
    toy.do("sleep-report")
    toy.albef("run --force report")
    toy.started()


def test_what_one_clone_computed_no_other_computes_again(
    tmp_path: Path, home: Path, toy: Toy
) -> None:
    storage = tmp_path / "storage"
    first = Toy.create(tmp_path / "first", home)
    first.sh(f"dvc remote add -q --default storage {storage} && git commit -qam remote")
    first.albef("run")
    assert sorted(first.started()) == ALL
    first.sh("git add -A && git commit -qm products")
    first.sh(f"git clone -q . {tmp_path / 'second'}")
    second = Toy(tmp_path / "second", home)
    (second.path / "do").mkdir(exist_ok=True)
    second.albef("run")
    assert second.started() == []
    assert (second.path / "products/models/retrieval/weights.txt").exists()
