"""What one clone computed no other computes again, where they share a DVC remote."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import graph, remote
from flows.process import Child
from flows.stages import failure_message
from tests.flows.toy import Toy


def test_only_the_page_which_dvc_does_not_keep_is_drawn_again(
    finished: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished.copy(tmp_path / "first")
    first.enter(monkeypatch)
    with Repo(".") as repo, repo.config.edit("repo") as config:
        config["core"]["remote"] = "storage"
        config["remote"]["storage"] = {"url": str(tmp_path / "storage")}
    assert (remote.push(), remote.pushed()) == (None, True)
    first.sh("git add -A && git commit -qm products")
    other = first.clone(tmp_path / "other")
    other.enter(monkeypatch)
    remote.fetch_runs()
    child = Child.reproducing([*graph.read()], alone=True, pull=True)  # as the flow's tasks
    assert child.follow(print) == 0
    assert other.started() == ["report"]
    for product in ("models/retrieval/weights.txt", "metrics/retrieval.json"):
        assert (other.path / "products" / product).exists()
    assert not any(node.stale for node in graph.read().values())
    other.do("fail-pretrain", "loss is NaN")
    Path("code/train.py").write_text("LR = 2\n")
    lines: list[str] = []
    code = Child.reproducing(["pretrain"], alone=True, pull=True).follow(lines.append)
    assert failure_message("pretrain", lines, code) == "pretrain: loss is NaN (exit code 2)"


def test_a_remote_that_fails_in_its_own_way_is_named_and_stops_nothing(
    finished: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("dvc_s3")
    finished.copy(tmp_path / "toy").enter(monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Repo(".") as repo, repo.config.edit("repo") as config:
        config["core"]["remote"] = "bucket"
        config["remote"]["bucket"] = {"url": "s3://bucket", "endpointurl": "http://127.0.0.1:9"}
    remote.fetch_runs()
    assert "cannot read the DVC remote" in caplog.text
    assert "credentials" in caplog.text
    assert (remote.push() or "").startswith("push: Unable to locate credentials")
