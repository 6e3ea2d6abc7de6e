"""``albef data check``: what ingest would do, and that nothing of it stays."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from albef.cli import main
from albef.config import ParamsError, validate
from albef.data.refusal import Reason
from albef.ingest.config import RowsConfig
from pipelines import heldout, ingest
from pipelines.check import check, render
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
    params(tmp_path, {"names": PICTURES, "placed": SCENES})
    return tmp_path


def with_limits(here: Path, sources: dict[str, Any], **more: Any) -> None:
    values = params(here, sources, **more)
    values["ingest"] = LIMITS
    (here / "params.yaml").write_text(json.dumps(values))


@pytest.mark.parametrize("make", [bad.folder, bad.webdataset, bad.parquet])
def test_it_tells_of_each_row_what_ingest_does(
    here: Path, make: Callable[[Path], dict[str, Any]]
) -> None:
    (here / "in").mkdir()
    source = make(here)
    with_limits(here, {"rows": source})
    before = contents(here)
    result = check("toy", len(bad.ROWS) + 1)
    assert contents(here) == before
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    own = result["sources"]["rows"]
    assert own["total"] == own["rows"] == result["rows"] == len(bad.ROWS)
    assert own["kept"] == result["kept"] == stage.record["records"]["train"]
    assert {why: one["count"] for why, one in own["set_aside"].items()} == {
        why: sum(row["reason"] == why for row in aside) for why in {row["reason"] for row in aside}
    }
    for why, one in own["set_aside"].items():
        first = next(row for row in aside if row["reason"] == why)
        assert {**first, **{k: one[k] for k in ("line", "key", "detail")}} == first
    size = sum(path.stat().st_size for path in stage.layout.data("toy").glob("shards/*"))
    assert result["whole"]["shard_bytes"] == pytest.approx(size, abs=20 * 512)
    assert result["whole"]["shards"] == 1
    assert not result["stops"]
    path = {"parquet": here / "in" / "a.parquet"}.get(source["kind"], here / "in")
    assert check(str(path), 1000)["sources"].popitem()[1]["rows"] == len(bad.ROWS)


def test_the_first_rows_of_each_source(here: Path) -> None:
    result = check("toy", 5)
    assert {name: own["rows"] for name, own in result["sources"].items()} == {
        "names": 5, "placed": 5
    }  # fmt: skip
    assert result["whole"] is None  # what is drawn is not counted
    assert check("toy.placed", 100)["sources"]["placed"]["total"] == 18
    assert list(check("toy.placed", 5)["sources"]) == ["placed"]


def test_whole_and_yield_and_repeated(here: Path) -> None:
    source = pictures(here / "own", {**PHOTOS, "none.jpg": (b"<html>", "none")})
    values = params(here, {"own": source}, duplicates="drop_near")
    values["ingest"] |= {"near_distance": 4, "min_yield": 0.5}
    (here / "params.yaml").write_text(json.dumps(values))
    result = check("toy", 100)
    assert result["repeated"] == {"exact": 1, "near": 1, "dropped": 2, "rule": "drop_near"}
    assert (result["rows"], result["kept"], result["stops"]) == (5, 2, True)
    words = render(result)
    assert "ingest would stop: 40 % kept, ingest.min_yield is 0.5" in words
    assert "own (annotations): all 5 rows\n  kept 2 (40 %)\n" in words
    assert "set aside 1 (20 %): no_image\n    first: row 5, none.jpg: " in words
    assert "1 equal pictures, 1 that look alike; duplicates: drop_near drops 2" in words
    some = check("toy", 2)
    assert some["sources"]["own"]["total"] == some["whole"]["rows"] == 5
    assert some["whole"]["kept"] == 5
    assert not some["stops"]
    assert "the first 2 rows of about 5" in render(some)


def test_each_source_is_as_its_own_first_rows(here: Path) -> None:
    small = {f"{i}.png": (toy.picture(i, (20, 20)), "small") for i in range(30)}
    large = {f"{i}.png": (toy.picture(i, (300, 300)), "large") for i in range(3)}
    params(here, {"s": pictures(here / "s", small), "l": pictures(here / "l", large)})
    whole = check("toy", 100)["whole"]
    some = check("toy", 3)["whole"]
    assert some["kept"] == whole["kept"] == 33
    assert some["shard_bytes"] == pytest.approx(whole["shard_bytes"], rel=0.1)


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


def test_what_was_downloaded_is_not_fetched_again(here: Path) -> None:
    with bad.Pictures() as server:
        with_limits(here, {"rows": bad.urls(here, server)})
        result = check("toy", 10)
        lines = (here / "list.csv").read_bytes().count(b"\n")
        assert result["sources"]["rows"]["total"] == lines - 1
        assert server.asked.total() == 10
        ingest.run(Stage("ingest", "toy"))
        assert max(server.asked.values()) == 1


def test_a_path_is_told_as_it_would_stand_in_params(here: Path) -> None:
    (here / "in").mkdir()
    bad.folder(here)
    result = check("in", 3)
    words = render(result)
    lines = words[words.index("To take it, write under datasets in params.yaml:\n") :]
    [(name, section)] = YAML(typ="safe").load(lines.partition("\n")[2]).items()
    read = validate(RowsConfig, section, where="shown")
    assert name == "in"
    assert read.sources["in"].model_dump(exclude={"licences"}) == {
        "kind": "folder", "path": "in", "split": "train"
    }  # fmt: skip


def test_a_list_that_is_named_by_its_path_asks_no_private_address(here: Path) -> None:
    with bad.Pictures() as server:
        bad.urls(here, server)
        result = check("list.csv", 5)
        assert not server.asked
    own = result["sources"]["list"]
    assert own["set_aside"]["private_address"]["count"] == own["rows"] == 5
    assert result["stops"]
    assert "# user_agent: say who asks and how to reach you\n  list:\n" in render(result)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tyo", "there is no path tyo, and no tyo in params.yaml; did you mean toy?"),
        ("toy.place", "data set toy has no source 'place'; did you mean toy.placed?"),
        ("odd.bin", "odd.bin: what it holds cannot be told by .bin; name it under datasets"),
    ],
)
def test_what_there_is_not_is_said(here: Path, source: str, said: str) -> None:
    (here / "odd.bin").write_bytes(b"odd")
    with pytest.raises(ParamsError, match=said.replace(".", r"\.").replace("?", r"\?")):
        check(source, 5)


def test_no_rows_are_asked_for_or_there(here: Path) -> None:
    with pytest.raises(ParamsError, match="--rows 0: at least one row"):
        check("toy", 0)
    (here / "empty.csv").write_text("url,caption\n")
    with pytest.raises(ParamsError, match=r"empty\.csv has no row"):
        check("empty.csv", 5)


def test_exit_codes_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["toy", "--json", "--rows", "3"], 0), (["nothing"], 2)):
        with pytest.raises(SystemExit) as caught:
            main(["data", "check", *arguments])
        assert caught.value.code == code
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("albef data check: there is no path nothing")
        else:
            assert json.loads(out)["rows"] == 6
    params(here, {"own": pictures(here / "own", {"a.jpg": (b"", "a")})})
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", "toy"])
    assert caught.value.code == 1
    assert Reason.NO_IMAGE in capsys.readouterr().out


def test_the_command_takes_paths_from_where_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "a.png").write_bytes(PHOTOS["smaller.png"][0])
    (tmp_path / "shots" / "a.txt").write_text("a photo")
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run(
        [sys.executable, "-m", "albef.cli", "data", "check", "."],
        cwd=tmp_path / "shots", env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shots (folder): all 1 rows" in done.stdout
