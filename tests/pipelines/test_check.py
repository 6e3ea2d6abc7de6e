"""``albef data check``: what ingest would do, and that nothing of it stays."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from albef.cli import main
from albef.config import ParamsError, read_preset, validate
from albef.ingest.config import RowsConfig
from flows.values import compose
from pipelines import heldout, ingest
from pipelines.check import check, render, write_preset
from pipelines.check import main as run_check
from pipelines.params import load
from pipelines.stage import Stage
from tests.data import toy
from tests.ingest.bad_rows import LIMITS
from tests.pipelines import test_bad_rows as bad
from tests.pipelines.test_ingest import PHOTOS, PICTURES, ROOT, SCENES, contents, params, pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd headers


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "in").mkdir()
    params(tmp_path, {"names": PICTURES, "placed": SCENES})
    return tmp_path


def test_it_tells_of_each_row_what_ingest_does(here: Path) -> None:
    params(here, {"rows": bad.folder(here)}, ingest=LIMITS)
    before = contents(here)
    result = check("toy", len(bad.ROWS) + 1)
    assert contents(here) == before
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    source = result["sources"]["rows"]
    assert source["rows"] == result["rows"] == len(bad.ROWS)
    assert source["kept"] == result["kept"] == stage.record["records"]["train"]
    assert set(source["set_aside"]) == {row["reason"] for row in aside}
    for reason, why in source["set_aside"].items():
        rows = [row for row in aside if row["reason"] == reason]
        first = {name: rows[0][name] for name in ("line", "key", "detail")}
        assert why == {"count": len(rows), **first}
    assert not result["stops"]


def test_the_first_rows_of_each_source(here: Path) -> None:
    result = check("toy", 5)
    rows = {name: source["rows"] for name, source in result["sources"].items()}
    assert rows == {"names": 5, "placed": 5}
    assert "placed (scenes): the first 5 rows" in render(result)
    assert check("toy.placed", 100)["sources"]["placed"]["rows"] == 18
    bad.folder(here)
    assert check("in", 1000)["sources"]["in"]["rows"] == len(bad.ROWS)


def test_yield_and_repeated(here: Path) -> None:
    source = pictures(here / "own", {**PHOTOS, "none.jpg": (b"<html>", "none")})
    limits = {"near_distance": 4, "min_yield": 0.5}
    params(here, {"own": source}, ingest=limits, duplicates="drop_near")
    result = check("toy", 100)
    assert result["repeated"] == {"exact": 1, "near": 1, "dropped": 2, "rule": "drop_near"}
    assert (result["rows"], result["kept"], result["stops"]) == (5, 2, True)
    words = render(result)
    assert "ingest would stop: 40 % kept, ingest.min_yield is 0.5" in words
    assert "own (annotations): all 5 rows\n  kept 2 (40 %)\n" in words
    assert "set aside 1 (20 %): no_image\n    first: row 5, none.jpg: " in words
    assert "1 equal pictures, 1 that look alike; duplicates: drop_near drops 2" in words
    assert not check("toy", 2)["stops"]


def test_what_is_evaluated_on_is_compared_as_far_as_it_is_there(here: Path) -> None:
    values = params(here, {"own": pictures(here / "own", PHOTOS)}, screened=True)
    tests = pictures(here / "held", {"a.jpg": PHOTOS["first.jpg"]}, "test")
    values["datasets"]["coco"] = {**values["datasets"]["toy"], "sources": {"e": tests}}
    values["ingest"]["heldout"] = ["coco"]
    (here / "params.yaml").write_text(json.dumps(values))
    result = check("toy", 100)
    assert result["not_compared"] == ["products/heldout/coco.parquet"]
    assert "not compared with products/heldout/coco.parquet" in render(result)
    heldout.run(Stage("heldout", "coco"))
    result = check("toy", 100)
    assert result["sources"]["own"]["set_aside"]["contamination"]["count"] == 2
    assert not result["not_compared"]


def test_a_path_is_told_as_it_would_stand_in_params(here: Path) -> None:
    bad.folder(here)
    words = render(check("in", 3))
    _, heading, section = words.partition("To take it, write under datasets in params.yaml:\n")
    assert heading
    section = section.removesuffix("or make a preset of it by --write")
    source = validate(RowsConfig, YAML(typ="safe").load(section)["in"], where="").sources["in"]
    described = {"kind": "folder", "path": "in", "split": "train"}
    assert source.model_dump(exclude={"licences"}) == described


def test_a_list_named_by_its_path_asks_no_private_address_and_one_of_values_asks_once(
    here: Path,
) -> None:
    with bad.Pictures() as server:
        source = bad.urls(here, server)
        result = check("list.csv", 5)
        assert not server.asked
        params(here, {"rows": source}, ingest=LIMITS)
        check("toy", 10)
        assert server.asked.total() == 10
        ingest.run(Stage("ingest", "toy"))
        assert max(server.asked.values()) == 1
    assert result["sources"]["list"]["set_aside"]["private_address"]["count"] == 5
    assert result["stops"]
    assert "# user_agent: say who asks and how to reach you\n  list:\n" in render(result)


def test_what_validation_would_refuse_and_which_limits_would_fit(here: Path) -> None:
    photos = {f"{i}.png": (toy.picture(i, (20 + i, 30)), f"a dog {i}") for i in range(9)}
    photos |= {"9.png": (toy.picture(9, (40, 40)), "word " * 40)}
    photos |= {"10.png": (toy.picture(10, (40, 40)), "собака слева")}
    sources = {"own": pictures(here / "own", photos)}
    limits = {"max_caption_words": 30, "min_image_side": 21, "max_other_scripts": 0.0}
    limits |= {"max_blank_images": 0.0, "max_short_captions": 0.0}
    params(here, sources, validate=limits)
    result = check("toy", 100)
    fitting = {"max_caption_words": 40, "scripts": ["Latin", "Cyrillic"], "min_image_side": 20}
    assert result["fitting"] == {**fitting, "max_blank_images": 1.0}
    assert (len(result["unmet"]), result["stops"]) == (4, False)
    words = render(result)
    assert "validation would refuse these records\n  captions are not too long (" in words
    assert "would pass with validate: {max_caption_words: 40, scripts: [Latin, Cyrillic]" in words
    params(here, sources, validate=limits | result["fitting"])
    assert not check("toy", 100)["unmet"]


def test_a_path_becomes_a_preset(here: Path) -> None:
    shots = here / "shots"
    shots.mkdir()
    for i in range(6):
        (shots / f"{i}.png").write_bytes(toy.noisy(i).image)
        (shots / f"{i}.txt").write_text(f"dog {i} on the left")
    for name in ("presets", "behaviour"):
        shutil.copytree(ROOT / name, here / name)
    assert run_check("shots", write=True) == 0
    values = read_preset(here / "presets" / "shots.yaml")
    assert values["datasets"]["shots"]["split_off"] == {"val": 0.1, "test": 0.1}
    assert values["pretrain"]["augment"]["flip"] is False
    with pytest.raises(ParamsError, match=r"presets/shots.yaml is there already; remove it"):
        run_check("shots", write=True)
    (here / "params.yaml").write_text(compose(here / "presets" / "shots.yaml"))
    assert load(here / "params.yaml").tasks["retrieval"].dataset == "shots"
    with pytest.raises(ParamsError, match=r"--write: shots.shots stands in"):
        write_preset(check("shots.shots", 5))


def test_what_there_is_not_is_said(here: Path) -> None:
    (here / "odd.bin").write_bytes(b"odd")
    (here / "empty.csv").write_text("url,caption\n")
    for source, message in (
        ("tyo", "there is no path tyo, and no tyo in params.yaml; did you mean toy?"),
        ("toy.place", "data set toy has no source 'place'; did you mean toy.placed?"),
        ("odd.bin", "odd.bin: what it holds cannot be told by .bin; name it under datasets"),
        ("empty.csv", "empty.csv has no row"),
    ):
        with pytest.raises(ParamsError, match=re.escape(message)):
            check(source, 5)
    with pytest.raises(ParamsError, match="--rows 0: at least one row"):
        check("toy", 0)


def test_exit_codes_and_json(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params(here, {"own": pictures(here / "own", {"a.jpg": (b"", "a")}), "names": PICTURES})
    (here / "shots").mkdir()
    (here / "shots" / "a.png").write_bytes(PHOTOS["smaller.png"][0])
    (here / "shots" / "a.txt").write_text("a photo")
    for source, code, kept in (("toy.names", 0, 3), ("toy.own", 1, 0), (".", 0, 1), ("x", 2, None)):
        monkeypatch.chdir(here / "shots")  # where a path starts
        with pytest.raises(SystemExit) as caught:
            main(["data", "check", source, "--json", "--rows", "3"])
        assert (caught.value.code or 0) == code
        out, err = capsys.readouterr()
        if kept is None:
            assert err.startswith("albef data check: there is no path shots/x")
        else:
            assert json.loads(out)["kept"] == kept
