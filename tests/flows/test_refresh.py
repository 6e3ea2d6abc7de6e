"""A refresh of the data: quiet where nothing changed, and what it does where something did."""

import subprocess
from pathlib import Path

import pytest

from tests.flows.test_run import last_flow
from tests.flows.toy import Toy

FLOW = (
    "import sys; from flows.train import train; "
    "state = train(refresh=sys.argv[1], return_state=True); "
    "print('STATE', state.name, '|', state.message)"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, home: Path, server: str) -> Toy:
    toy = Toy.create(tmp_path_factory.mktemp("refresh") / "project", home, server)
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
    assert sorted(toy.started()) == ["ingest@scenes", "ingest@web"]
    assert (toy.path / "dvc.lock").read_bytes() == lock
    assert (toy.path / "products/report/index.html").stat().st_mtime_ns == page
    assert "nothing to do" in toy.albef("run")
    assert not list((toy.path / ".dvc/tmp").glob("albef-refresh-*"))


def test_what_changed_is_said_and_no_more_is_done_than_asked(toy: Toy) -> None:
    toy.do("lines-web", "one three four vier fuenf")
    told = refresh(toy)
    assert told.startswith("Completed | web: train +3 -1. ")
    assert sorted(toy.started()) == ["ingest@scenes", "ingest@web"]
    toy.do("lines-web", "one three vier v5")
    told = refresh(toy, "all")
    assert "web: train +0 -2; val +1 -0" in told
    assert sorted(set(toy.started())) == [
        "evaluate@retrieval", "finetune@retrieval", "ingest@scenes", "ingest@web", "pretrain",
        "report",
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
        assert sorted(toy.started()) == ["ingest@scenes", "ingest@web"]
    finally:
        worker.terminate()
        worker.wait(timeout=60)
