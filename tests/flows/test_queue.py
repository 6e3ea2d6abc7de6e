"""DVC's own queue of experiments, over the real frame."""

import json
import time
from pathlib import Path

import pytest

from tests.flows.toy import Toy


@pytest.mark.slow
def test_queued_experiments_are_kept_and_compared(tmp_path: Path, home: Path) -> None:
    toy = Toy.create(tmp_path / "toy", home)
    for name, epochs in (("one", 3), ("two", 5)):
        toy.sh(f"dvc exp run --queue -n {name} -S tasks.retrieval.epochs={epochs}")
    says = toy.sh("dvc exp run --queue -S tasks.retrieval.epoch=3", fails=True)
    assert "Could not override 'tasks.retrieval.epoch'" in says, "no such key"
    toy.sh("dvc queue start -j 2")
    try:
        _wait(toy)
    finally:
        toy.sh("dvc queue stop --kill")

    shown = json.loads(toy.sh("dvc exp show --json"))
    found = {}
    for experiment in shown[1]["experiments"]:
        (state,) = experiment["revs"]
        values = state["data"]["params"]["params.yaml"]["data"]["tasks"]["retrieval"]
        metrics = state["data"]["metrics"]["products/metrics/retrieval.json"]["data"]
        found[experiment["name"]] = (values["epochs"], metrics["test"]["r_mean"])
    assert found == {"one": (3, 0.75), "two": (5, 0.75)}
    compared = toy.albef("compare one two", fails=True)  # the toy has no predictions to compare
    assert "tasks.retrieval.epochs 3 5" in " ".join(compared.split())
    (branch,) = toy.sh("git for-each-ref --format='%(refname)' refs/exps/*/*/two").split()
    kept = toy.sh(f"git ls-tree -r --name-only {branch}").split()
    assert "products/runs/evaluate@retrieval.json" in kept, "run records go with an experiment"
    assert toy.sh("git status --porcelain") == ""


def _wait(toy: Toy) -> None:
    while True:
        states = [line.split()[-1] for line in toy.sh("dvc queue status").splitlines()[1:3]]
        assert "Failed" not in states, toy.sh("dvc queue logs one; dvc queue logs two")
        if states == ["Success"] * 2:
            return
        time.sleep(1)
