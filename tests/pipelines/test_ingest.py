"""The stage that makes a data set, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.config import ParamsError
from albef.data.shards import Shards, describe
from pipelines import ingest
from pipelines.stage import Stage

ROOT = Path(__file__).parents[2]
SCENES = {
    "kind": "scenes", "objects": 12, "pixels": 32, "splits": {"train": 12, "test": 6},
    "captions": 2, "caption_noise": 0.2, "unseen": 0.0,
}  # fmt: skip
PICTURES = {
    "kind": "pictures", "objects": 12, "pixels": 32, "splits": {"train": 6}, "caption_noise": 0.0,
}  # fmt: skip


def params(folder: Path, sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Write a params file with the values of the project's own, and one data set ``toy``."""
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    own = {"longest_side": None, "duplicates": "keep", "screened": False, "augment": {}, **more}
    values["datasets"] = {"toy": {"sources": sources, "shard_mb": 1, **own}}
    values["runtime"] |= {"scratch": str(folder / "scratch"), "workers": 0}
    (folder / "params.yaml").write_text(json.dumps(values))
    return dict(values)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    params(tmp_path, {"names": PICTURES, "placed": SCENES})
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_writes_all_sources_as_one_data_set(here: Path) -> None:
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    folder = stage.layout.data("toy")
    described = describe(folder)
    assert described["splits"] == stage.record["records"] == {"train": 18, "test": 6}
    assert [source["name"] for source in described["sources"]] == ["names", "placed"]
    assert described["licences"][0]["licence"] == "CC BY-SA 4.0"
    assert "openmoji.org" in described["licences"][0]["url"]
    assert len(described["licences"]) == 2
    train, test = list(Shards(folder, "train")), list(Shards(folder, "test"))
    assert [record.source for record in train] == ["names"] * 6 + ["placed"] * 12
    assert train[0].key == "names-train-000000"
    ids = [record.image_id for record in train + test]
    assert sorted(ids) == list(range(24))
    assert [path.name for path in (here / "products" / "data").iterdir()] == ["toy"]
    assert not list((here / "scratch").rglob("*-toy*"))


def test_another_process_writes_the_same_bytes(here: Path) -> None:
    ingest.run(Stage("ingest", "toy"))
    first = contents(here / "products" / "data" / "toy")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "pipelines.ingest", "toy"], env=environment, check=True,
        capture_output=True,
    )  # fmt: skip
    assert contents(here / "products" / "data" / "toy") == first


def test_two_data_sets_with_equal_sources_share_no_picture(here: Path) -> None:
    values = params(here, {"placed": SCENES})
    values["datasets"]["other"] = values["datasets"]["toy"]
    (here / "params.yaml").write_text(json.dumps(values))
    images = []
    for name in ("toy", "other"):
        ingest.run(Stage("ingest", name))
        folder = here / "products" / "data" / name
        images.append({r.image for split in ("train", "test") for r in Shards(folder, split)})
    assert not images[0] & images[1]


def test_the_data_have_a_seed_of_their_own(here: Path) -> None:
    digests = {}
    for seed, data_seed in ((1, 1), (2, 1), (1, 2)):
        values = params(here, {"names": PICTURES})
        values |= {"seed": seed, "data_seed": data_seed}
        (here / "params.yaml").write_text(json.dumps(values))
        ingest.run(Stage("ingest", "toy"))
        digests[seed, data_seed] = describe(here / "products" / "data" / "toy")["digest"]
    assert digests[1, 1] == digests[2, 1] != digests[1, 2]


def test_a_failure_leaves_nothing_half_and_names_the_source(here: Path) -> None:
    params(here, {"names": PICTURES, "placed": {**SCENES, "splits": {"train": 3, "test": 9000}}})
    with pytest.raises(ParamsError, match=r"params\.yaml: datasets\.toy\.sources\.placed: splits"):
        ingest.run(Stage("ingest", "toy"))
    assert not (here / "products" / "data").exists()
    assert not (here / "products" / "quarantine").exists()


def test_an_earlier_data_set_is_replaced_whole(here: Path) -> None:
    ingest.run(Stage("ingest", "toy"))
    old = here / "products" / "data" / "toy" / "shards" / "toy-00009.tar"
    old.write_text("of an earlier run")
    ingest.run(Stage("ingest", "toy"))
    assert not old.exists()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": {**SCENES, "kind": "sceens"}}, "sources.a: kind 'sceens' is not known; did you"),
        ({"a": {**SCENES, "objets": 3}}, "sources.a: objets is not a known key; did you mean"),
        ({"a": {"kind": "openmoji"}}, "is not known; the kinds are "),
        ({"a": {}}, "kind is missing"),
        ({}, "datasets.toy.sources"),
    ],
)
def test_wrong_sources_are_named(here: Path, sources: dict[str, Any], message: str) -> None:
    params(here, sources)
    with pytest.raises(ParamsError) as caught:
        ingest.run(Stage("ingest", "toy"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("params.yaml: datasets.toy.sources")


def test_an_unknown_data_set(here: Path) -> None:
    with pytest.raises(ParamsError, match="no data set 'tow'; the data sets are toy"):
        ingest.run(Stage("ingest", "tow"))


def test_it_needs_neither_torch_nor_transforms_nor_tasks_before_it_writes() -> None:
    code = (
        "import sys, pipelines.ingest, albef.data.sources.scenes, albef.data.sources.pictures\n"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('albef')])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "torch" not in loaded
    assert "albef.data.shards" in loaded
    for absent in ("transforms", "albef.tasks", "albef.models", "albef.training"):
        assert absent not in loaded
