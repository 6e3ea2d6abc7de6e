"""The corpus of bad rows through every source of files: each ends as it should, and is found."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.data.refusal import Reason
from albef.data.shards import Shards
from pipelines import ingest
from pipelines.stage import Stage
from tests.ingest.bad_rows import LIMITS, bad_rows
from tests.ingest.download.server import Answer, Server
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.pipelines.test_ingest import params

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd headers
ROWS = bad_rows()
Source = dict[str, Any]


def raw(caption: str) -> bytes:
    return caption.encode("utf-8", "surrogatepass")


class Pictures(Server):
    """Serves the pictures of the rows."""

    async def row(self, path: str, writer: Any) -> Answer:
        return 200, {}, ROWS[int(path.split("/")[2])].image


def folder(here: Path) -> Source:
    for row in ROWS:
        (here / "in" / f"{row.name}.jpg").write_bytes(row.image)
        (here / "in" / f"{row.name}.txt").write_bytes(raw(row.caption.replace("\n", " ")))
    return {"kind": "folder", "path": str(here / "in"), "split": "train"}


def webdataset(here: Path) -> Source:
    with tarfile.open(here / "in" / "a.tar", "w") as tar:
        for row in ROWS:
            for name, data in (("jpg", row.image), ("txt", raw(row.caption))):
                info = tarfile.TarInfo(f"{row.name}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    files = {"train": [str(here / "in" / "a.tar")]}
    return {"kind": "webdataset", "files": files, "caption": "txt", "keep": None, "statuses": False}


def parquet(here: Path) -> Source:
    captions = pa.array([raw(row.caption) for row in ROWS], pa.binary()).view(pa.string())
    images = [{"bytes": row.image, "path": row.name} for row in ROWS]
    pq.write_table(pa.table({"image": images, "caption": captions}), here / "in" / "a.parquet")
    files = {"train": [str(here / "in" / "*.parquet")]}
    return {
        "kind": "parquet", "files": files, "image": "image", "captions": ["caption"], "keep": []
    }  # fmt: skip


def annotations(here: Path) -> Source:
    for row in ROWS:
        (here / "in" / row.name).write_bytes(row.image)
    rows = [{"image": row.name, "caption": row.caption} for row in ROWS]
    (here / "rows.json").write_text(json.dumps(rows))
    return {
        "kind": "annotations", "format": "captions", "files": {"train": [str(here / "rows.json")]},
        "images": str(here / "in"), "joined": False, "boxes": None, "proposals": None,
    }  # fmt: skip


def urls(here: Path, server: Server) -> Source:
    with (here / "list.csv").open("w", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["url", "caption"])
        for i, row in enumerate(ROWS):
            writer.writerow([server.url(f"row/{i}"), row.caption])
    return {
        "kind": "urls", "files": [str(here / "list.csv")], "format": "csv", "header": None,
        "url": "url", "caption": "caption", "keep": [], "split": "train",
        "download": DOWNLOAD.model_dump(),
    }  # fmt: skip


def run(here: Path, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    """Ingest the rows and hold what became of each against the corpus."""
    values = params(here, {"rows": source})
    values["ingest"] = LIMITS
    (here / "params.yaml").write_text(json.dumps(values))
    monkeypatch.chdir(here)
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    kept = list(Shards(stage.layout.data("toy"), "train"))
    assert len(aside) + len(kept) == len(ROWS)
    assert sorted(record.captions[0] for record in kept) == sorted(
        row.expected for row in ROWS if not isinstance(row.expected, Reason)
    )
    found = sorted(row["reason"] for row in aside)
    expected = sorted(row.expected for row in ROWS if isinstance(row.expected, Reason))
    if source["kind"] == "annotations":  # there a caption that is blank is a field that is missing
        blank = sum(not row.caption.strip() for row in ROWS)
        for _ in range(blank):
            expected.remove(Reason.NO_CAPTION)
        expected = sorted([*expected, *[Reason.MISSING_FIELD] * blank])
    assert found == expected
    assert all(row["line"] > 0 and row["detail"] for row in aside)
    nameless = [row for row in aside if not row["key"]]  # a line that is not UTF-8 has no address
    assert len(nameless) == (source["kind"] == "urls")
    assert {row["source"] for row in aside} == {"rows"}


@pytest.mark.parametrize("make", [folder, webdataset, parquet, annotations])
def test_bad_rows_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Source]
) -> None:
    (tmp_path / "in").mkdir()
    run(tmp_path, monkeypatch, make(tmp_path))


def test_bad_rows_of_a_list_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pictures() as server:
        source = urls(tmp_path, server)
        run(tmp_path, monkeypatch, source)
        assert max(server.asked.values()) == 1
