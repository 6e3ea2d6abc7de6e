"""The table at the end of a run."""

import json
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from dvc.repo.experiments import Experiments

from albef.config import validate
from albef.layout import Layout, Paths
from flows.graph import Node
from flows.results import StaleResultsError, check_fresh, summary
from flows.run import save_experiment
from flows.status import report
from tests.flows.toy import Toy


def test_metrics_that_count_stand_beside_every_baseline(tmp_path: Path) -> None:
    layout = Layout(validate(Paths, {"root": str(tmp_path), "models": "m"}, where="test"))
    layout.metrics("vqa").parent.mkdir(parents=True)
    baselines = {"chance": 28.2, "random_weights": 25.5, "text_only": 26.9}
    metrics: dict[str, Any] = {name: {"test": {"accuracy": n}} for name, n in baselines.items()}
    metrics |= {"test": {"accuracy": 61.25, "other": 5}}
    layout.metrics("vqa").write_text(json.dumps(metrics))
    fresh = Node("evaluate@vqa", (), ())
    header, _, *rows = summary(layout, {fresh.name: fresh}).splitlines()
    assert header.split("  ")[-1].strip() == "text only"
    assert rows[0].split() == ["vqa", "accuracy", "61.25", "28.2", "25.5", "26.9"]
    assert rows[1].split() == ["vqa", "other", "5"]


def _interrupted(save: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    main = threading.main_thread().ident or 0
    while "result" not in {
        frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._current_frames()[main])
    }:  # It does not wait for this thread yet.
        time.sleep(0.01)
    signal.pthread_kill(main, signal.SIGINT)
    return save(*args, **kwargs)


def ingest() -> None:
    with Repo(".") as repo:
        repo.reproduce(["ingest@web"], single_item=True, force=True)


def test_stale_numbers_are_marked_and_an_experiment_leaves_them_stale(
    finished: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = finished.copy(tmp_path / "project")
    toy.sh("git add -A && git commit -qm products")
    clone = toy.clone(tmp_path / "clone")
    toy.enter(monkeypatch)
    assert "*" not in report()
    check_fresh()
    toy.do("lines-web", "one two three")
    ingest()
    text = report()
    assert re.search(r"retrieval +r_mean +0\.75\* +0\.01\*", text)
    reason = r"pretrain is stale (products/data/web of ingest@web changed)"
    assert f"evaluate@retrieval: {reason}" in text
    assert save_experiment("other-data") is None
    save = Experiments.save
    monkeypatch.setattr(
        Experiments, "save", lambda *args, **kwargs: _interrupted(save, *args, **kwargs)
    )
    # A shell lets its background jobs ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        save_experiment("interrupted")
    monkeypatch.setattr(Experiments, "save", save)
    assert set(toy.sh("dvc exp list --name-only").split()) == {"interrupted", "other-data"}
    assert report() == text
    with pytest.raises(StaleResultsError, match=re.escape(reason)):
        check_fresh()

    clone.enter(monkeypatch)
    clone.do("lines-web", "one two vier")
    ingest()
    assert "*" not in report(), "what is only missing is not stale"
    assert save_experiment("one-stage") is None
