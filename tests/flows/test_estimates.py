"""How long stages and runs may take."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from albef.config import read_preset
from flows import estimates
from flows.estimates import estimate, time_left
from flows.graph import Node
from tests.products import products as products
from tests.products import project as project


def graph(**above: str) -> dict[str, Node]:
    return {name: Node(name, tuple(names.split()), ()) for name, names in above.items()}


def test_the_time_left_is_that_of_the_cores_and_the_longest_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    nodes = graph(a="", b="", c="", d="a", e="d b c")
    assert time_left(nodes, {"a": 1, "b": 1, "c": 1}) == 2
    assert time_left(nodes, {"a": 1, "b": 5, "c": 1, "d": 3, "e": 2}) == 7
    assert time_left(nodes, {"d": 3, "e": 2}) == 5, "stages that are up to date take no time"
    assert time_left(nodes, {}) == 0


def test_an_estimate_is_of_the_last_run_or_of_a_measured_one_with_equal_values(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = project / "products/runs"
    names = ["pretrain", "finetune@retrieval"]
    seconds = {
        name: json.loads((records / f"{name}.json").read_text())["seconds"] for name in names
    }
    known = estimate([*names, "export@vqa"])
    assert known == {name: estimates.START_S + s for name, s in seconds.items()} | {
        "export@vqa": None
    }

    monkeypatch.setattr(estimates, "TYPICAL", project / "typical.json")
    estimates.TYPICAL.write_text(json.dumps({"machine": "", "probe_s": 0.03, "stages": {}}))
    estimates.write_typical()
    for name in names:
        (records / f"{name}.json").unlink()
    scaled = estimate(names)
    assert all(scaled[name] for name in names)
    values = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
    values["tasks"]["retrieval"]["epochs"] += 1
    Path("params.yaml").write_text(json.dumps(values))
    assert estimate(names)["finetune@retrieval"] is None


def test_a_clone_without_records_has_estimates_of_the_measured_presets() -> None:
    folder = estimates.TYPICAL.parents[1] / "presets"
    presets = [read_preset(folder / f"{name}.yaml") for name in ("built-in", "flickr8k")]
    stages = json.loads(estimates.TYPICAL.read_text())["stages"]
    for values in presets:
        assert estimates._digest(values, "pretrain") in stages["pretrain"]
    stale = [
        name
        for name, known in stages.items()
        if not known.keys() <= {estimates._digest(values, name) for values in presets}
    ]
    assert not stale, "after the run of the preset, run `python -m flows.estimates`"
