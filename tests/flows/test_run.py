"""`albef run` and `albef status` on a toy project: real DVC, real Prefect, real processes."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.repo import Repo
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.utilities.callables import parameter_schema

from albef.config import ParamsError, read_yaml
from flows.run import run
from flows.run_lock import RunInProgressError
from flows.status import report
from flows.train import _check_server, train
from tests.conftest import free_port
from tests.flows.conftest import ask, assert_ended, last_flow
from tests.flows.toy import Toy

ALL = [
    "evaluate@retrieval",
    "finetune@retrieval",
    "ingest@scenes",
    "ingest@web",
    "pretrain",
    "report",
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, home: Path, server: str) -> Toy:
    """A project that has run once; tests leave it fresh."""
    toy = Toy.create(tmp_path_factory.mktemp("toy") / "project", home, server)
    toy.do("sleep-ingest", "2")
    told = toy.albef("run")
    toy.do("sleep-ingest")
    assert sorted(toy.started()) == ALL
    assert "6 stages ran, 0 were up to date" in told
    # Independent stages run at the same time, and neither finds DVC locked by the other:
    # "parallel repro ends in lock errors" (dvc#10465, #9805, #5795).
    lines = told.splitlines()
    starts = [lines.index(f"ingest@{name}: starts") for name in ("web", "scenes")]
    ends = [i for i, line in enumerate(lines) if re.match(r"ingest@\w+: done", line)]
    assert max(starts) < min(ends)
    return toy


def tasks(server: str, flow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    runs = ask(server, "task_runs", flow_runs={"id": {"any_": [flow["id"]]}})
    return {run["name"]: run for run in runs}


@pytest.fixture
def here(server: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows run in this process, which spares their imports."""

    def run_in_session(module: str, url: str, parameters: str, **_: int | None) -> int:
        with temporary_settings({PREFECT_API_URL: server, PREFECT_HOME: home}):
            state = train(**json.loads(parameters), return_state=True)
        print(f"\n{state.message}", file=sys.stderr)
        return int(not state.is_completed())

    monkeypatch.setattr("flows.run.run_in_session", run_in_session)


def states(server: str) -> dict[str, str]:
    return {name: run["state"]["name"] for name, run in tasks(server, last_flow(server)).items()}


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_the_page_shows_the_graph_and_what_a_run_came_to_and_a_second_run_starts_nothing(
    toy: Toy, server: str
) -> None:
    """Two descriptions of one graph cannot drift apart (dvc#1099)."""
    flow = last_flow(server)
    runs = tasks(server, flow)
    names = {run["id"]: name for name, run in runs.items()}
    drawn = {
        (names[above["id"]], name)
        for name, run in runs.items()
        for above in run["task_inputs"].get("wait_for", [])
    }
    with Repo(toy.path) as repo:
        edges = {(below.addressing, above.addressing) for above, below in repo.index.graph.edges}
    assert drawn == {tuple(name.rpartition(":")[2] for name in edge) for edge in edges}
    assert sorted(runs) == ALL
    assert not any(run["tags"] for run in runs.values()), "each would ask the server for a limit"
    assert runs["pretrain"]["state"]["message"] == "pretrain says hello"
    shown = {made["key"]: made["data"] for made in ask(server, "artifacts", artifacts=None)
             if made["flow_run_id"] == flow["id"]}  # fmt: skip
    (row, *_) = [row for row in json.loads(shown["results"]) if row["metric"] == "r_mean"]
    assert (row["run"], row["value"], row["chance"]) == ("retrieval", "0.75", "0.01")
    assert f":{toy.path}/products/report/index.html" in shown["report"]

    told = toy.albef("run")
    assert "nothing to do: every stage is up to date" in told
    assert re.search(r"retrieval +r_mean +0.75 +0.01", told)
    assert toy.started() == []
    assert last_flow(server)["id"] == flow["id"]
    assert toy.albef("status").count("fresh, ran 20") == len(ALL)


@pytest.mark.usefixtures("here")
def test_a_changed_value_runs_what_depends_on_it_and_its_old_artifacts_come_back(
    toy: Toy, server: str
) -> None:
    record = toy.path / "products/runs/finetune@retrieval.json"
    before = record.read_text()
    epochs = read_yaml(toy.path / "params.yaml")["tasks"]["retrieval"]["epochs"]
    toy.checked("tasks.retrieval.epochs=3")
    values = (toy.path / "params.yaml").read_bytes()
    plan = toy.albef("run --set tasks.retrieval.epochs=3 --dry")
    assert (toy.path / "params.yaml").read_bytes() == values
    assert re.search(r"finetune@retrieval +tasks.retrieval.epochs \d+ -> 3 +[\d.]+ s", plan)
    assert re.search(r"evaluate@retrieval +if finetune@retrieval changes its artifacts", plan)
    assert not re.search(r"^pretrain", plan, re.MULTILINE)
    told = toy.albef("run --set tasks.retrieval.epochs=3 --name three")
    assert "recorded as experiment three" in told
    ran = ["finetune@retrieval", "evaluate@retrieval"]
    assert toy.started() == ran
    assert states(server) == dict.fromkeys(ALL, "Cached") | dict.fromkeys(ran, "Completed")
    assert "/three\n" in toy.sh("git for-each-ref --format='%(refname)' refs/exps")
    assert json.loads(record.read_text())["made"] != json.loads(before)["made"]

    toy.checked(f"tasks.retrieval.epochs={epochs}")
    assert "cached" in toy.albef(f"run --set tasks.retrieval.epochs={epochs}")
    assert toy.started() == []
    assert not record.exists(), "it is of other artifacts"


def test_what_is_wrong_is_reported_before_the_first_stage_and_nothing_is_written(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (toy.path / "params.yaml").read_text()
    told = toy.albef("run --set tasks.retrieval.epoch=3", fails=True)
    assert "did you mean tasks.retrieval.epochs?" in told
    toy.enter(monkeypatch)
    with pytest.raises(ParamsError, match="there is no stage pretrian; did you mean pretrain"):
        run(only=["pretrian"])
    with pytest.raises(ParamsError, match="experiment name a b is invalid"):
        run(name="a b")
    for name in (name for name in toy.env if name.startswith("GIT_")):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ParamsError, match=r"git config user.name"):
        run(force=["report"], name="nobody")
    assert (toy.path / "params.yaml").read_text() == before
    assert toy.started() == []


def test_ctrl_c_in_a_terminal_ends_what_is_at_work_and_leaves_the_terminal_whole(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.do("sleep-pretrain", "300")
    ours, terminal = pty.openpty()
    options = {"start_new_session": True, "stdout": terminal, "stderr": terminal}
    flow = toy.start("run --force pretrain", **options, env=toy.env | {"TERM": "xterm"})
    os.close(terminal)
    toy.wait_for("pretrain")
    toy.enter(monkeypatch)
    status = report()
    with pytest.raises(
        RunInProgressError, match=rf"already in progress in this clone \(process {flow.pid}\)"
    ):
        run()
    assert re.search(r"pretrain +running: process \d+, for [\d.]+ s", status)
    assert re.search(r"finetune@retrieval +waits for pretrain", status)
    assert "a run is in progress: process" in status
    children = below(flow)
    assert len(children) >= 3  # the flow, dvc, the stage
    shown, interrupted = "", False
    with contextlib.suppress(OSError):  # Linux ends a terminal with an error.
        while text := os.read(ours, 4096).decode(errors="replace"):
            shown += text
            if "pretrain says hello" in shown and not interrupted:
                os.killpg(flow.pid, signal.SIGINT)  # as a terminal does it: to the whole group
                interrupted = True
    assert flow.wait(timeout=600) == 130
    assert_ended(children)
    plan, rest = shown.split("whole run", 1)
    assert re.search(r"stage +takes about\s+-+ +-+\s+pretrain +[\d.]+ s", plan)
    assert re.search(r"0 of 1 stages ended +>?\d:\d\d left", rest)
    assert "pretrain: pretrain says hello" not in rest, "only lines in place show it"
    assert rest.count("\x1b[?25l") == rest.count("\x1b[?25h") > 0, "the cursor is back"
    assert "run the same command again" in rest
    toy.do("sleep-pretrain")
    toy.started()


@pytest.mark.usefixtures("here")
def test_a_failed_stage_stops_what_depends_on_it_until_a_run_succeeds(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.enter(monkeypatch)
    (toy.path / ".dvc/tmp/rwlock").write_text("")  # as a killed DVC leaves it in mid-write
    toy.do("fail-pretrain", "the loss is no number")
    told = toy.albef("run --force pretrain", fails=True)
    assert told.rstrip().splitlines()[-1] == "pretrain: the loss is no number (exit code 2)"
    assert toy.started() == ["pretrain"]
    failed = r"pretrain +failed: the loss is no number \(exit code 2\)\n +stale: "
    assert re.search(failed, report())
    toy.do("fail-pretrain")
    assert "pretrain: cached" in toy.albef("run")  # nothing changed: DVC still has its product
    assert toy.started() == []


def test_a_worker_gives_values_and_a_name_with_the_checks_of_the_command(
    toy: Toy, server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = parameter_schema(train).properties
    assert "KEY=VALUE" in form["overrides"]["description"]
    toy.enter(monkeypatch)
    before = Path("params.yaml").read_text()
    toy.checked("tasks.retrieval.epochs=4")
    with temporary_settings({PREFECT_API_URL: server, PREFECT_HOME: home}):
        overrides = ["tasks.retrieval.epochs=4"]
        state = train(only=["ingest"], overrides=overrides, name="four", return_state=True)
        wrong = train(overrides=["tasks.retreival.epochs=4"], return_state=True)
    assert state.is_completed(), state
    assert read_yaml(Path("params.yaml"))["tasks"]["retrieval"]["epochs"] == 4
    assert "/four\n" in toy.sh("git for-each-ref --format='%(refname)' refs/exps")
    assert "did you mean retrieval" in str(wrong.message)
    Path("params.yaml").write_text(before)
    assert toy.started() == []


def test_a_server_that_cannot_be_reached_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(SystemExit):
        _check_server("start it")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"PREFECT_API_URL: cannot reach {url}")


def test_only_takes_along_what_a_stage_reads_and_nobody_made(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.enter(monkeypatch)
    monkeypatch.setattr("flows.values.check", lambda path: None)
    made = toy.path / "products/data/web"
    made.rename(toy.path / "away")
    assert run(only=["pretrain"], dry=True) == 0
    (toy.path / "away").rename(made)
    assert re.search("ingest@web +products/data/web is missing", capsys.readouterr().out)
    assert run(only=["finetune"], dry=True) == 0
    assert "nothing would run" in capsys.readouterr().out
    assert run(only=["finetune"], force=["ingest@web"], dry=True) == 0
    assert re.search("ingest@web +forced", capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_without_a_server_leaves_none_behind(tmp_path: Path, home: Path) -> None:
    toy = Toy.create(tmp_path / "project", home)
    toy.do("sleep-pretrain", "300")
    flow = toy.start("run", start_new_session=True)
    toy.wait_for("pretrain")
    children = below(flow)
    assert any("flows.server" in process.cmdline() for process in children)
    flow.kill()
    flow.communicate(timeout=600)
    assert_ended(children)
    toy.do("sleep-pretrain")
    toy.albef("run --only pretrain")
