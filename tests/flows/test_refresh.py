"""A refresh of the data: quiet where nothing changed, and what it does where something did."""

import re
import subprocess
from pathlib import Path

import psutil
import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from albef.config import ParamsError
from flows import graph, train
from tests.flows.conftest import assert_ended, last_flow
from tests.flows.toy import ROOT, Toy
from tests.serving.running import wait_until

VALIDATE = """
  validate:
    foreach: ${keys}
    do:
      cmd: python toy_validate.py ${key}
      deps: ["${paths.root}/data/${key}"]
      outs: ["${paths.root}/verdicts/${key}.json"]
"""
SCRIPT = """
import sys
from pathlib import Path

name = sys.argv[1]
with open("started.log", "a") as file:
    file.write(f"validate@{name}\\n")
if "bad" in Path(f"products/data/{name}/part.txt").read_text():
    sys.exit(f"validate@{name}: data set {name} is refused")
Path("products/verdicts").mkdir(exist_ok=True)
Path(f"products/verdicts/{name}.json").write_text("{}")
"""
READ = ["ingest@scenes", "ingest@web"]


@pytest.fixture(scope="module")
def toy(finished: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = finished.copy(tmp_path_factory.mktemp("refresh") / "project")
    with (toy.path / "dvc.yaml").open("a") as file:
        file.write(VALIDATE)
    (toy.path / "toy_validate.py").write_text(SCRIPT)
    toy.repro()
    toy.started()
    return toy


@pytest.fixture
def here(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project, where DVC alone runs what the flow's tasks would."""
    toy.enter(monkeypatch)

    def run(only: list[str], force: list[str], push: bool = True) -> State:
        count = 0
        for name in only or graph.read():
            try:
                with Repo(".") as repo:
                    count += len(repo.reproduce(name, single_item=True, force=name in force))
            except DvcException:
                return Failed(message=f"{name}: failed")
        return Completed(message=f"{count} stages ran")

    monkeypatch.setattr(train, "_train", run)


def refresh(then: str = "data") -> str:
    """The name and message of the state in which a refresh ends."""
    state = train._refresh(then)
    return f"{state.name} | {state.message}"


@pytest.mark.usefixtures("here")
def test_what_changed_is_said_and_no_more_is_done_than_asked(toy: Toy) -> None:
    toy.do("lines-web", "one three four vier fuenf")
    assert refresh() == "Completed | changed datasets: web. 1 stages ran"
    assert sorted(toy.started()) == [*READ, "validate@web"]
    toy.do("lines-web", "one three vier v5")
    assert "changed datasets: web. " in refresh("all")
    assert sorted(toy.started()) == [
        "evaluate@retrieval", "finetune@retrieval", *READ, "pretrain", "report", "validate@web",
    ]  # fmt: skip
    lock, page = Path("dvc.lock").read_bytes(), Path("products/report/index.html")
    drawn = page.stat().st_mtime_ns
    assert refresh("all") == "Completed | nothing changed"
    assert sorted(toy.started()) == READ
    assert Path("dvc.lock").read_bytes() == lock
    assert page.stat().st_mtime_ns == drawn


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_data_that_were_refused_are_refused_again_although_nothing_changed(toy: Toy) -> None:
    toy.do("lines-web", "one bad")
    for _ in range(2):
        assert refresh() == "Failed | validate@web: failed"
    toy.do("lines-web", "one three vier v5")
    assert "changed datasets: web" in refresh()
    toy.do("fail-ingest", "the list is gone")
    assert refresh().startswith("Failed | ingest@"), "a source that cannot be read"
    toy.do("fail-ingest")


@pytest.mark.usefixtures("here")
def test_it_chooses_its_stages_itself() -> None:
    with pytest.raises(ParamsError, match="remove only and force"):
        train.train.fn(refresh="data", only=["report"])


def documented(begins: str) -> list[str]:
    """The commands of the block of docs/how-to/run-on-a-cluster.md that begins so."""
    page = (ROOT / "docs/how-to/run-on-a-cluster.md").read_text()
    blocks = re.findall(r"^```\w*\n(.+?)^```$", page, re.M | re.S)
    (block,) = (block for block in blocks if block.startswith(begins))
    return [line.partition(" # ")[0].strip() for line in block.splitlines()]


@pytest.mark.slow
def test_what_the_page_of_clusters_says_runs_and_can_be_cancelled_and_the_schedule_rests(
    toy: Toy, server: str
) -> None:
    toy.repro()
    toy.started()
    toy.env["PREFECT_API_URL"] = server
    create, limit, deploy, start, run = documented("prefect work-pool")
    toy.sh("prefect --no-prompt work-pool delete local || true")  # the server is shared
    toy.sh(create)
    toy.sh(limit)
    toy.sh(deploy)
    assert "0 3 * * *" in toy.sh("prefect deployment inspect train/refresh")
    assert "'active': False" in toy.sh("prefect deployment inspect train/refresh")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(start.split(), cwd=toy.path, env=toy.env, **silent)  # type: ignore[call-overload]
    try:
        for name, message in (
            ("local", "0 stages ran, 8 were up to date"),
            ("refresh", "nothing changed"),
        ):
            deployment = run.replace("train/local", f"train/{name}")
            toy.sh(f"{deployment} --watch --watch-timeout 600")
            assert last_flow(server)["state"]["message"] == message
        assert sorted(toy.started()) == READ
        toy.sh(run.replace("train/local", "train/refresh"))  # both at once: one of them queues
        toy.sh(f"{run} --watch --watch-timeout 600")
        wait_until(lambda: last_flow(server, 1)["state"]["type"] in ("COMPLETED", "FAILED"))
        assert {last_flow(server, i)["state"]["type"] for i in (0, 1)} == {"COMPLETED"}
        toy.started()
        toy.do("sleep-pretrain", "300")
        toy.sh("prefect deployment run train/local --param 'force=[\"pretrain\"]'")
        stage = psutil.Process(toy.wait_for("pretrain"))
        toy.sh(f"prefect flow-run cancel {last_flow(server)['id']}")
        assert_ended([stage])
    finally:
        worker.kill()  # politely, it would not go where SIGINT is ignored
        worker.wait()
