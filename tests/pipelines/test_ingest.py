"""The stage that makes a data set, in a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ImageOps
from ruamel.yaml import YAML

from albef.config import ParamsError
from albef.data.image_decoding import decode
from albef.data.shards import ShardError, Shards, describe
from albef.ingest.blocks import EXAMPLES, Blocks
from albef.ingest.prepare import prepare
from albef.ingest.shard_writer import ShardWriter
from pipelines import heldout, ingest
from pipelines.stage import Stage
from tests.data import toy
from tests.ingest.bad_rows import LIMITS, encoded, gradient
from tests.ingest.sources.reading import write_tar

ROOT = Path(__file__).parents[2]
DATA, ASIDE = Path("products/data/toy"), Path("products/quarantine/toy")
SCENES = {
    "kind": "scenes", "objects": 12, "pixels": 32, "splits": {"train": 12, "test": 6},
    "captions": 2, "caption_noise": 0.2, "unseen": 0.0,
}  # fmt: skip
PICTURES = {
    "kind": "pictures", "objects": 12, "pixels": 32, "splits": {"train": 6}, "caption_noise": 0.0,
}  # fmt: skip


def params(
    folder: Path,
    sources: dict[str, Any],
    *,
    ingest: dict[str, Any] | None = None,
    validate: dict[str, Any] | None = None,
    workers: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Write a params file with the values of the project's own, these over them, and one data set
    ``toy``."""
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    own = {"longest_side": None, "duplicates": "keep", "screened": False, "store": None, **more}
    values["datasets"] = {"toy": {"sources": sources, "shard_mb": 1, **own}}
    values["runtime"] |= {"scratch": str(folder / "scratch"), "workers": workers}
    off = {"warn": None, "stop": None}  # a few rows are never alike
    values["validate"]["drift"]["evaluation"] = {"divergence": off, "shift": off}
    values["ingest"] |= ingest or {}
    values["validate"] |= validate or {}
    (folder / "params.yaml").write_text(json.dumps(values))
    return dict(values)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    params(tmp_path, {"names": PICTURES, "placed": SCENES})
    return tmp_path


def pictures(
    folder: Path, rows: dict[str, tuple[bytes, str]], split: str = "train"
) -> dict[str, Any]:
    """A source of picture files with a caption each, by name."""
    folder.mkdir(exist_ok=True)
    for name, (image, _) in rows.items():
        (folder / name).write_bytes(image)
    listed = [{"image": name, "caption": caption} for name, (_, caption) in rows.items()]
    (folder / f"{split}.json").write_text(json.dumps(listed))
    files = {split: [str(folder / f"{split}.json")]}
    return {
        "kind": "annotations", "format": "captions", "files": files,
        "images": str(folder), "joined": False, "boxes": None, "proposals": None,
    }  # fmt: skip


def many(count: int) -> dict[str, tuple[bytes, str]]:
    """Small pictures that differ, every seventh of them no picture."""
    return {
        f"{i:05d}.png": (b"<html>" if i % 7 == 3 else toy.picture(i, (24, 20)), f"picture {i}")
        for i in range(count)
    }


def rough(count: int) -> dict[str, tuple[bytes, str]]:
    """The same, some of them with nothing said or the picture of the one before."""
    rows = many(count)
    for i, name in enumerate(rows):
        if i % 9 == 5:
            rows[name] = rows[name][0], "..."
        elif i % 8 == 6:
            rows[name] = toy.picture(i - 1, (24, 20)), f"picture {i}"
    return rows


def kept(folder: Path) -> list[str]:
    """The paths of the records of a data set."""
    metas = pq.read_table(folder / "index.parquet")["meta"].to_pylist()
    return [json.loads(meta)["path"] for meta in metas]


def aside(folder: Path) -> dict[str, tuple[str, str]]:
    """Reason and detail of each row of a quarantine, by what names the row."""
    rows = pq.read_table(folder / "quarantine.parquet").to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: (row["reason"], row["detail"]) for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_writes_all_sources_as_one_dataset(here: Path) -> None:
    licence = {"what": "photos", "licence": "CC BY 4.0", "url": "https://a.test"}
    shots = {**pictures(here / "own", PHOTOS), "licences": [licence, licence]}
    params(here, {"names": PICTURES, "placed": SCENES, "shots": shots})
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    described = describe(DATA)
    assert described["splits"] == stage.record["records"] == {"train": 22, "test": 6}
    assert [source["name"] for source in described["sources"]] == ["names", "placed", "shots"]
    assert "licences" not in described["sources"][2]
    emoji, _, photos = described["licences"]  # each once
    assert emoji["licence"] == "CC BY-SA 4.0"
    assert "openmoji.org" in emoji["url"]
    assert photos == {**licence, "attribution": ""}
    train, test = list(Shards(DATA, "train")), list(Shards(DATA, "test"))
    assert [r.source for r in train] == ["names"] * 6 + ["placed"] * 12 + ["shots"] * 4
    assert train[0].key == "names-train-000000"
    assert sorted(record.image_id for record in train + test) == list(range(28))
    assert [path.name for path in DATA.parent.iterdir()] == ["toy"]


def test_another_process_without_torch_and_ray_replaces_it_by_the_same_bytes(here: Path) -> None:
    ingest.run(Stage("ingest", "toy"))
    first = contents(DATA)
    (DATA / "shards" / "toy-00009.tar").write_text("of an earlier run")
    code = (
        "import runpy, sys, pipelines.ingest, albef.builtin.scenes, albef.builtin.pictures\n"
        "assert not {'torch', 'albef.tasks', 'albef.models', 'albef.training'} & set(sys.modules)\n"
        "sys.argv[1:] = ['toy']; runpy.run_module('pipelines.ingest', run_name='__main__')\n"
        "assert not {'ray', 'albef.cluster'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
    assert contents(DATA) == first


def test_each_dataset_and_data_seed_draws_its_own_images(here: Path) -> None:
    values = params(here, {"placed": SCENES})
    values["datasets"]["other"] = values["datasets"]["toy"]
    images: dict[tuple[str, int, int], set[bytes]] = {}
    for name, seed, data_seed in (("toy", 1, 1), ("toy", 2, 1), ("other", 1, 1), ("toy", 1, 2)):
        (here / "params.yaml").write_text(
            json.dumps(values | {"seed": seed, "data_seed": data_seed})
        )
        ingest.run(Stage("ingest", name))
        records = Shards(DATA.with_name(name), "train")
        images[name, seed, data_seed] = {record.image for record in records}
    first, other_seed, *others = images.values()
    assert first == other_seed
    assert not any(first & other for other in others)


def test_a_failure_leaves_nothing_half_and_names_the_source(here: Path) -> None:
    params(here, {"names": PICTURES, "placed": {**SCENES, "splits": {"train": 3, "test": 9000}}})
    with pytest.raises(ParamsError, match=r"params\.yaml: datasets\.toy\.sources\.placed: splits"):
        ingest.run(Stage("ingest", "toy"))
    assert not (here / "products").exists()


def toy_params(here: Path, rows: dict[str, tuple[bytes, str]], **more: Any) -> None:
    """A data set of picture files, with the limits of the bad rows where none are given."""
    limits = LIMITS | {name: more.pop(name) for name in list(more) if name in LIMITS}
    params(here, {"own": pictures(here / "images", rows)}, ingest=limits, **more)


def test_too_small_a_yield_stops_and_leaves_the_quarantine(here: Path) -> None:
    toy_params(here, many(14), min_yield=0.9)
    message = r"12 of 14 rows .* below ingest.min_yield 0.9; rejected: 2 no_image.*quarantine.parq"
    with pytest.raises(ShardError, match=message):
        ingest.run(Stage("ingest", "toy"))
    assert set(aside(ASIDE)) == {"00003.png", "00010.png"}
    assert not DATA.exists()
    toy_params(here, many(14), min_yield=0.8)
    ingest.run(Stage("ingest", "toy"))
    assert len(kept(DATA)) == 12
    toy_params(here, {"00000.png": (b"<html>", "a page")}, min_yield=0.0)
    with pytest.raises(ShardError, match=r"0 of 1 rows were kept \(0 %\); rejected: 1 no_image"):
        ingest.run(Stage("ingest", "toy"))
    toy_params(here, {}, min_yield=0.0)
    with pytest.raises(ShardError, match="sources of dataset toy have no rows"):
        ingest.run(Stage("ingest", "toy"))


def test_rows_of_a_shard_that_was_cut_do_not_count_as_yield(here: Path) -> None:
    samples = [(f"{i}.{kind}", data) for i in range(20)
               for kind, data in (("png", toy.picture(i)), ("txt", b"a dog"))]  # fmt: skip
    for name in ("0.tar", "1.tar"):
        write_tar(here / name, *samples)
    whole = (here / "1.tar").read_bytes()
    (here / "1.tar").write_bytes(whole[: 10 * 4 * 512])  # ten samples of header and content
    shards = {"kind": "webdataset", "files": {"train": [str(here / "*.tar")]}}
    params(here, {"own": shards}, ingest=LIMITS | {"min_yield": 0.95})
    with pytest.raises(ShardError, match=r"20 of 31 rows .*not counting 10 .* \(64.5 %\)"):
        ingest.run(Stage("ingest", "toy"))
    params(here, {"own": shards}, ingest=LIMITS | {"min_yield": 0.6})
    ingest.run(Stage("ingest", "toy"))
    assert len(kept(DATA)) == 20, "the ten others repeat image and caption"
    assert [why for why, _ in aside(ASIDE).values()] == ["cut_shard"]


PHOTOS = {
    "first.jpg": (encoded(gradient(300, 200, 1)), "one"),
    "other.jpg": (encoded(gradient(300, 200, 2)), "two"),
    "equal.jpg": (encoded(gradient(300, 200, 1)), "three"),
    "smaller.png": (encoded(gradient(300, 200, 1).resize((150, 100)), "PNG"), "four"),
}


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        ("keep", {}),
        ("drop_exact", {"equal.jpg": "duplicate"}),
        ("drop_near", {"equal.jpg": "duplicate", "smaller.png": "near_duplicate"}),
    ],
)
def test_repeated_images_are_reported_and_dropped_by_rule(
    here: Path, rule: str, dropped: dict[str, str]
) -> None:
    toy_params(here, PHOTOS, duplicates=rule, near_distance=4)
    ingest.run(Stage("ingest", "toy"))
    found = aside(ASIDE)
    assert {name: why for name, (why, _) in found.items()} == dropped
    assert set(kept(DATA)) == set(PHOTOS) - set(dropped)
    groups = pq.read_table(ASIDE / "duplicates.parquet").to_pylist()
    assert [(row["key"], row["of"], row["kind"]) for row in groups] == [
        ("own-train-0000002", "own-train-0000000", "exact"),
        ("own-train-0000003", "own-train-0000000", "near"),
    ]
    assert sum(row["dropped"] for row in groups) == len(dropped)
    if "equal.jpg" in dropped:
        assert found["equal.jpg"][1].endswith("own-train-0000000")


def test_some_rows_of_each_reason_are_kept_to_be_looked_at(here: Path) -> None:
    wordless = {f"{i:02d}.png": (toy.picture(i, (200, 150)), "...") for i in range(20)}
    rows = {**PHOTOS, **wordless, "z.jpg": (b"<html>", "z")}
    toy_params(here, rows, duplicates="drop_near", near_distance=4)
    ingest.run(Stage("ingest", "toy"))
    equal, near, *silent, html = pq.read_table(ASIDE / "examples.parquet").to_pylist()
    assert len(aside(ASIDE)) == 23
    assert [row["reason"] for row in silent] == ["no_caption"] * EXAMPLES
    assert all(decode(row["picture"]).size == (160, 120) for row in silent)
    assert (equal["reason"], equal["distance"], equal["captions"]) == ("duplicate", 0, ["three"])
    assert (near["reason"], near["of_dataset"]) == ("near_duplicate", None)
    assert equal["of"] == near["of"] == "own-train-0000000"
    assert near["distance"] <= 4
    shown, original = decode(near["picture"]), decode(PHOTOS["smaller.png"][0])
    assert shown.size == (150, 100)
    assert np.abs(np.asarray(shown, float) - np.asarray(original, float)).mean() < 4
    assert html["picture"] is None
    assert "b'<html>'" in html["detail"]


@pytest.mark.parametrize("distance", [4, None])
def test_what_is_evaluated_on_is_not_trained_on(here: Path, distance: int | None) -> None:
    mirror = encoded(ImageOps.mirror(decode(PHOTOS["first.jpg"][0])))
    toy_params(
        here, {**PHOTOS, "mirror.png": (mirror, "six")}, screened=True, near_distance=distance
    )
    values = json.loads((here / "params.yaml").read_text())
    tests = {"a.jpg": PHOTOS["first.jpg"], "b.jpg": (encoded(gradient(99, 99, 9)), "nine")}
    other = values["datasets"]["toy"] | {"screened": False}
    trained = pictures(here / "held", {"t.jpg": PHOTOS["other.jpg"]})
    other["sources"] = {"s": trained, "e": pictures(here / "held", tests, "test")}
    values["datasets"]["coco"] = other
    values["ingest"]["heldout"] = ["coco"]
    (here / "params.yaml").write_text(json.dumps(values))
    heldout.run(Stage("heldout", "coco"))
    keys = pq.read_table("products/heldout/coco.parquet")["key"].to_pylist()
    assert keys == sorted(["e-test-0000000", "e-test-0000001"] * (2 if distance else 1))
    ingest.run(Stage("ingest", "toy"))
    found = aside(ASIDE)
    near = {"smaller.png", "mirror.png"} if distance else set()
    assert set(found) == {"first.jpg", "equal.jpg"} | near
    assert set(kept(DATA)) == {*PHOTOS, "mirror.png"} - set(found)
    why, said = found["first.jpg"]
    assert why == "contamination"
    assert "e-test-0000000 of dataset coco" in said
    ingest.run(Stage("ingest", "coco"))
    assert len(kept(Path("products/data/coco"))) == 3


def test_the_evaluated_images_of_a_source_are_those_of_its_whole(here: Path) -> None:
    heldout.run(Stage("heldout", "toy"))
    ingest.run(Stage("ingest", "toy"))
    held = pq.read_table("products/heldout/toy.parquet").to_pylist()
    tests = pq.read_table(DATA / "index.parquet", filters=[("split", "!=", "train")]).to_pylist()
    assert len(held) == 6
    assert {row["key"]: row["digest"].hex() for row in held} == {
        row["key"]: row["digest"][:32] for row in tests
    }


def set_sixty(patch: pytest.MonkeyPatch) -> None:
    """Values of 60 rows in the working folder, for blocks of ten and several shards."""
    patch.setattr(ingest, "_ROWS", 10)
    patch.setattr("albef.ingest.shard_writer._END", 2**20 - 20_000)
    toy_params(Path(), rough(60), duplicates="drop_exact")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an ingest of them writes when nothing ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        set_sixty(patch)
        ingest.run(Stage("ingest", "toy"))
        assert describe(DATA)["shards"] > 3
        return contents(DATA) | contents(ASIDE)


@pytest.fixture
def prepared(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that are prepared from now on, of those in the working folder."""
    set_sixty(monkeypatch)
    names: list[str] = []

    def counted(line: int, row: Any, rules: Any) -> Any:
        names.append(getattr(row, "meta", {}).get("path", ""))
        return prepare(line, row, rules)

    monkeypatch.setattr("albef.ingest.pool.prepare", counted)
    return names


BLOCK, SHARD, END = (Blocks, "write"), (ShardWriter, "_close"), (ingest, "_publish")


@pytest.mark.parametrize(("where", "at"), [(BLOCK, 0), (BLOCK, 3), (SHARD, 2), (END, 0)])
def test_what_was_ended_is_not_prepared_again(
    whole: dict[str, bytes], prepared: list[str], monkeypatch: pytest.MonkeyPatch,
    where: tuple[Any, str], at: int,
) -> None:  # fmt: skip
    real, calls = getattr(*where), [0]

    def ends(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] > at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(*where, ends)
    with pytest.raises(KeyboardInterrupt):
        ingest.run(Stage("ingest", "toy"))
    monkeypatch.setattr(*where, real)
    prepared.clear()
    ingest.run(Stage("ingest", "toy"))
    assert contents(DATA) | contents(ASIDE) == whole
    assert len(prepared) == (60 - 10 * at if where is BLOCK else 0)


def test_only_what_is_new_is_prepared(here: Path, prepared: list[str]) -> None:
    def run(rows: dict[str, tuple[bytes, str]], **changed: Any) -> int:
        prepared.clear()
        toy_params(Path(), rows, **{"duplicates": "drop_exact", **changed})
        ingest.run(Stage("ingest", "toy"))
        return len(prepared)

    rows = rough(60)
    assert run(rows) == 60
    pictures_kept = set((here / "scratch").rglob("images-*"))
    assert run(rows) == 0
    moved = {"000.png": (toy.picture(100, (24, 20)), "first"), **rows, "00100.png": (b"no", "bad")}
    moved["00025.png"] = toy.picture(999, (24, 20)), "another"
    del moved["00041.png"], moved["00005.png"]
    assert run(moved) == 3
    grown = contents(DATA) | contents(ASIDE)
    assert run(dict(list(moved.items())[40:])) == 0
    assert not pictures_kept <= set((here / "scratch").rglob("images-*")), "what nobody needs goes"
    assert run(moved) > 30
    assert contents(DATA) | contents(ASIDE) == grown
    shutil.rmtree(here / "scratch")
    assert run(moved) == len(moved)
    assert contents(DATA) | contents(ASIDE) == grown
    assert run(moved, quality=50) == len(moved), "other rules prepare all anew"
