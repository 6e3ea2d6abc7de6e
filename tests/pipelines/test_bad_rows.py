"""Bad rows and odd values through the sources of files and the stages: each ends as it should, is
found and shown, and the data set is judged."""

import contextlib
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.data.refusal import Reason
from albef.data.shards import Shards, describe
from albef.ingest.download.client import Client
from albef.validation.result import NotFit
from pipelines import ingest, validate
from pipelines.report import data_page
from pipelines.stage import Stage
from tests.ingest.bad_rows import LIMITS, bad_rows
from tests.ingest.download.server import Answer, Server
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.ingest.sources.reading import write_tar
from tests.ingest.test_hostile import SOURCES, fetch
from tests.pipelines.test_ingest import params, pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd headers
ROWS = bad_rows()
Source = dict[str, Any]


def raw(caption: str) -> bytes:
    return caption.encode("utf-8", "surrogatepass")


class Pictures(Server):
    """Serves the pictures of the rows."""

    async def row(self, path: str, writer: Any) -> Answer:
        return 200, {}, ROWS[int(path.split("/")[2])].image


def annotations(here: Path) -> Source:
    return pictures(here / "in", {row.name: (row.image, row.caption) for row in ROWS})


def folder(here: Path) -> Source:
    for row in ROWS:
        (here / "in" / f"{row.name}.jpg").write_bytes(row.image)
        (here / "in" / f"{row.name}.txt").write_bytes(raw(row.caption.replace("\n", " ")))
    return {"kind": "folder", "path": str(here / "in"), "split": "train"}


def webdataset(here: Path) -> Source:
    members = [
        (f"{row.name}.{suffix}", data)
        for row in ROWS
        for suffix, data in (("jpg", row.image), ("txt", raw(row.caption)))
    ]
    shard = write_tar(here / "in" / "a.tar", *members)
    return {"kind": "webdataset", "files": {"train": [str(shard)]}}


def parquet(here: Path) -> Source:
    captions = pa.array([raw(row.caption) for row in ROWS], pa.binary()).view(pa.string())
    images = [{"bytes": row.image, "path": row.name} for row in ROWS]
    pq.write_table(pa.table({"image": images, "caption": captions}), here / "in" / "a.parquet")
    files = {"train": [str(here / "in" / "*.parquet")]}
    return {"kind": "parquet", "files": files, "image": "image", "captions": ["caption"]}


def urls(here: Path, server: Server) -> Source:
    with (here / "list.csv").open("w", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["url", "caption"])
        for i, row in enumerate(ROWS):
            writer.writerow([server.url(f"row/{i}"), row.caption])
    return {
        "kind": "urls", "files": [str(here / "list.csv")], "format": "csv", "url": "url",
        "caption": "caption", "split": "train", "download": DOWNLOAD.model_dump(),
    }  # fmt: skip


def judged(stage: Stage) -> None:
    """Hold a data set against its suites, which may refuse it, and show it."""
    with contextlib.suppress(NotFit):
        validate.run(Stage("validate", stage.key))
    result = json.loads((stage.layout.validation(stage.key) / "result.json").read_text())
    assert result["digest"] == describe(stage.layout.data(stage.key))["digest"]
    page = data_page(stage.key).read_bytes().decode()
    aside = pq.read_metadata(stage.layout.quarantine(stage.key) / "quarantine.parquet")
    assert f"<dt>set aside</dt><dd>{aside.num_rows:,}</dd>" in page


@pytest.mark.parametrize("make", [annotations, folder, webdataset, parquet, urls])
def test_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    with Pictures() as server:
        source = make(tmp_path, server) if make is urls else make(tmp_path)
        params(tmp_path, {"rows": source}, ingest=LIMITS, workers=2 * (make is annotations))
        stage = Stage("ingest", "toy")
        ingest.run(stage)
    assert make is not urls or max(server.asked.values()) == 1
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    kept = list(Shards(stage.layout.data("toy"), "train"))
    assert len(aside) + len(kept) == len(ROWS)
    captions = sorted(row.expected for row in ROWS if not isinstance(row.expected, Reason))
    assert sorted(record.captions[0] for record in kept) == captions
    expected = Counter(row.expected for row in ROWS if isinstance(row.expected, Reason))
    if make is annotations:  # whose rows have names, and an empty caption is no field
        empty = expected[Reason.MISSING_FIELD] = sum(not row.caption.strip() for row in ROWS)
        expected[Reason.NO_CAPTION] -= empty
        whys = {row.name: row.expected for row in ROWS if row.caption.strip()}
        assert all(whys.get(row["key"], row["reason"]) == row["reason"] for row in aside)
        assert all(whys[record.meta["path"]] == record.captions[0] for record in kept)
    assert Counter(row["reason"] for row in aside) == expected
    summary = json.loads((stage.layout.quarantine("toy") / "summary.json").read_text())["rows"]
    assert summary == {"rows": len(ROWS), "kept": len(kept), "set_aside": expected}
    assert stage.record["set_aside"] == len(aside)
    assert all(row["line"] > 0 and row["detail"] for row in aside)
    nameless = [row for row in aside if not row["key"]]  # a line that is not UTF-8 has no address
    assert len(nameless) == (make is urls)
    assert {row["source"] for row in aside} == {"rows"}
    judged(stage)


@pytest.mark.parametrize("make", SOURCES)
def test_odd_values_end_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Client, "fetch", fetch)
    source, rows = make(tmp_path / "in")
    params(tmp_path, {"rows": source}, ingest=LIMITS | {"near_distance": 2}, longest_side=24)
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    kept = sum(describe(stage.layout.data("toy"))["splits"].values())
    assert kept + stage.record["set_aside"] == rows
    judged(stage)
