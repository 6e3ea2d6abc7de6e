"""A refresh of the data: quiet where nothing changed, and what it does where something did."""

import subprocess
from pathlib import Path

import pytest

from albef.data.shards import read_index
from flows.refresh import count_changes
from tests.data import toy as data
from tests.flows.test_run import last_flow
from tests.flows.toy import Toy

FLOW = (
    "import sys; from flows.train import train; "
    "state = train(refresh=sys.argv[1], return_state=True); "
    "print('STATE', state.name, '|', state.message)"
)


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
def toy(tmp_path_factory: pytest.TempPathFactory, home: Path, server: str) -> Toy:
    toy = Toy.create(tmp_path_factory.mktemp("refresh") / "project", home, server)
    with (toy.path / "dvc.yaml").open("a") as file:
        file.write(VALIDATE)
    (toy.path / "toy_validate.py").write_text(SCRIPT)
    toy.do("lines-web", "one two vier")
    toy.albef("run")
    toy.started()
    return toy


def refresh(toy: Toy, then: str = "data") -> str:
    """Run the flow; the name and message of its state."""
    out = toy.sh(f'python -c "{FLOW}" {then}')
    return out.rpartition("STATE ")[2].strip()


def test_where_nothing_changed_it_stops_quietly(toy: Toy) -> None:
    lock = (toy.path / "dvc.lock").read_bytes()
    page = (toy.path / "products/report/index.html").stat().st_mtime_ns
    assert refresh(toy, "all") == "Completed | nothing changed"
    assert sorted(toy.started()) == READ
    assert (toy.path / "dvc.lock").read_bytes() == lock
    assert (toy.path / "products/report/index.html").stat().st_mtime_ns == page
    assert "nothing to do" in toy.albef("run")
    assert not list((toy.path / ".dvc/tmp").glob("albef-refresh-*"))


def test_what_changed_is_said_and_no_more_is_done_than_asked(toy: Toy) -> None:
    toy.do("lines-web", "one three four vier fuenf")
    told = refresh(toy)
    assert told.startswith("Completed | web: train +3 -1. 1 stages ran")
    assert sorted(toy.started()) == [*READ, "validate@web"]
    toy.do("lines-web", "one three vier v5")
    told = refresh(toy, "all")
    assert "web: train +0 -2; val +1 -0" in told
    assert sorted(set(toy.started())) == [
        "evaluate@retrieval", "finetune@retrieval", "ingest@scenes", "ingest@web", "pretrain",
        "report", "validate@web",
    ]  # fmt: skip
    assert refresh(toy, "all") == "Completed | nothing changed"
    toy.started()


def test_a_source_that_cannot_be_read_fails_with_its_sentence(toy: Toy) -> None:
    toy.do("fail-ingest", "the list is gone")
    try:
        told = refresh(toy)
    finally:
        toy.do("fail-ingest")
    assert told.startswith("Failed | ingest@")
    assert "the list is gone" in told
    toy.albef("run")
    toy.started()


def test_data_that_were_refused_are_refused_again_although_nothing_changed(toy: Toy) -> None:
    toy.do("lines-web", "one bad")
    assert "data set web is refused" in refresh(toy)
    assert refresh(toy).startswith("Failed | validate@web: data set web is refused")
    toy.do("lines-web", "one three vier v5")
    assert "web: train +1 -1; val +2 -0" in refresh(toy)
    assert refresh(toy) == "Completed | nothing changed"
    toy.started()


def test_it_chooses_its_stages_itself(toy: Toy) -> None:
    code = "from flows.train import train; train(refresh='data', only=['report'])"
    assert "leave only and force out" in toy.sh(f'python -c "{code}"', fails=True)


@pytest.mark.slow
def test_its_deployment_runs_through_a_worker_and_its_schedule_rests(toy: Toy, server: str) -> None:
    toy.sh("prefect work-pool create local --type process --overwrite")
    toy.sh("prefect --no-prompt deploy --name refresh")
    assert "0 3 * * *" in toy.sh("prefect deployment inspect train/refresh")
    assert "'active': False" in toy.sh("prefect deployment inspect train/refresh")
    worker = subprocess.Popen(
        ["prefect", "worker", "start", "--pool", "local"],
        cwd=toy.path, env=toy.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        toy.sh("prefect deployment run train/refresh --watch --watch-timeout 240")
        assert last_flow(server)["state"]["message"] == "nothing changed"
        assert sorted(toy.started()) == READ
    finally:
        worker.terminate()
        worker.wait()


def test_records_are_told_by_what_they_hold(tmp_path: Path) -> None:
    """One of ten is gone, and all after it have the key of the one before."""
    for name, numbers in (("before", [*range(10)]), ("after", [*range(3), *range(4, 11)])):
        records = [data.record(n, key=f"train-{i}") for i, n in enumerate(numbers)]
        data.write(tmp_path / name, records)
    before, after = (read_index(tmp_path / name) for name in ("before", "after"))
    assert count_changes(before, after) == {"train": (1, 1)}
    assert count_changes(before, before) == {"train": (0, 0)}
