"""Bad rows and odd values through the sources of files and the stages: each ends as it should, is
found and shown, and the data set is judged."""

import contextlib
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from albef.data.rejection import Reason
from albef.data.shards import Shards, describe
from albef.validation.result import ValidationFailedError
from pipelines import ingest, validate
from pipelines.report import data_page
from pipelines.stage import Stage
from tests.ingest.bad_rows import LIMITS, bad_rows
from tests.ingest.download.server import Response, Server
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.pipelines.test_ingest import params, pictures

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd headers
ROWS = bad_rows()
Source = dict[str, Any]


def raw(caption: str) -> bytes:
    return caption.encode("utf-8", "surrogatepass")


class Pictures(Server):
    """Serves the pictures of the rows."""

    async def row(self, path: str, writer: Any) -> Response:
        return 200, {}, ROWS[int(path.split("/")[2])].image


def annotations(here: Path) -> Source:
    return pictures(here / "in", {row.name: (row.image, row.caption) for row in ROWS})


def folder(here: Path) -> Source:
    for row in ROWS:
        (here / "in" / f"{row.name}.jpg").write_bytes(row.image)
        (here / "in" / f"{row.name}.txt").write_bytes(raw(row.caption.replace("\n", " ")))
    return {"kind": "folder", "path": str(here / "in"), "split": "train"}


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
    with contextlib.suppress(ValidationFailedError):
        validate.run(Stage("validate", stage.key))
    result = json.loads((stage.layout.validation(stage.key) / "result.json").read_text())
    assert result["digest"] == describe(stage.layout.data(stage.key))["digest"]
    page = data_page(stage.key).read_bytes().decode()
    aside = pq.read_metadata(stage.layout.quarantine(stage.key) / "quarantine.parquet")
    assert f"<dt>rejected</dt><dd>{aside.num_rows:,}</dd>" in page


def test_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    params(tmp_path, {"rows": annotations(tmp_path)}, ingest=LIMITS, workers=2)
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    aside = pq.read_table(stage.layout.quarantine("toy") / "quarantine.parquet").to_pylist()
    kept = list(Shards(stage.layout.data("toy"), "train"))
    assert len(aside) + len(kept) == len(ROWS)
    empty = {row.name: Reason.MISSING_FIELD for row in ROWS if not row.caption.strip()}
    expected = {row.name: row.expected for row in ROWS} | empty
    assert {record.meta["path"]: record.captions[0] for record in kept} == {
        name: caption for name, caption in expected.items() if not isinstance(caption, Reason)
    }
    reasons = {name: reason for name, reason in expected.items() if isinstance(reason, Reason)}
    assert {row["key"]: row["reason"] for row in aside} == reasons
    summary = json.loads((stage.layout.quarantine("toy") / "summary.json").read_text())["rows"]
    counts = Counter(reasons.values())
    assert summary == {"rows": len(ROWS), "kept": len(kept), "rejected": counts}
    assert stage.record["rejected"] == len(aside)
    assert all(row["line"] > 0 and row["detail"] and row["source"] == "rows" for row in aside)
    judged(stage)
