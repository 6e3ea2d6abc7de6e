"""A list of addresses: its rows, what becomes of each, and a kill in between."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from albef.data.rejection import Reason, Rejection
from albef.ingest.download.store import FILE
from albef.ingest.sources import urls
from tests.data import toy
from tests.ingest.download.server import Server
from tests.ingest.download.test_client import LIMITS
from tests.ingest.sources.reading import Rows, bad, good
from tests.ingest.sources.reading import read as read_source


def values(files: Path | str, **changed: Any) -> dict[str, Any]:
    return {
        "files": [str(files)], "format": "tsv", "header": ["caption", "url"], "url": "url",
        "caption": "caption", "split": "train", "download": LIMITS.model_dump(), **changed,
    }  # fmt: skip


def read(folder: Path, files: Path | str, **changed: Any) -> Rows:
    return read_source("urls", folder / "scratch", **values(files, **changed))


def test_rows_in_the_order_of_the_list(server: Server, tmp_path: Path) -> None:
    lines = [
        f"a first\t{server.url('ok/1')}",
        f"gone\t{server.url('status/404')}",
        "no address",
        f" \t{server.url('ok/2')}",
        "none\t",
        f"a file\t{server.url('later/500/1')}",
        "elsewhere\tftp://a.test/x.jpg",
    ]
    file = tmp_path / "list.tsv"
    file.write_text("\n".join(lines))
    rows = read(tmp_path, file)
    first, later = good(rows)
    assert (first.image, first.captions) == (toy.picture(1), ("a first",))
    assert (first.key, first.image_id, first.split) == ("train-00000000", 0, "train")
    sha256 = hashlib.sha256(first.image).hexdigest()
    assert first.meta == {"url": server.url("ok/1"), "sha256": sha256}
    assert later.image_id == 5
    gone, short, blank, none, ftp = bad(rows)
    detail = f"{file}: status 404 Not Found"
    assert gone == Rejection("", 2, server.url("status/404"), Reason.NOT_FOUND, detail)
    assert (short.line, short.reason) == (3, Reason.MALFORMED_ROW)
    assert (none.line, none.reason) == (5, Reason.MISSING_FIELD)
    assert none.detail.startswith(f"{file}: 'url'")
    assert (blank.reason, ftp.line, ftp.reason) == (Reason.NO_CAPTION, 7, Reason.BAD_URL)
    assert "/ok/2" not in server.asked, "what has no caption is not downloaded"
    assert (server.asked["/status/404"], server.asked["/later/500/1"]) == (1, 2)


KILLED = """
import sys
from pathlib import Path
from albef.ingest.sources import urls
urls.CHUNK = 20
source = urls.Config.model_validate_json(sys.argv[1])
for row in urls.records(source, 0, Path(sys.argv[2])):
    pass
"""


def stored(scratch: Path) -> set[str]:
    [path] = scratch.rglob(FILE)
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {address for (address,) in database.execute("SELECT address FROM downloads")}


def test_a_kill_loses_nothing_and_nothing_is_asked_for_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 200
    file = tmp_path / "list.tsv"
    gone = {i for i in range(rows) if i % 11 == 0}
    paths = [f"status/404/{i}" if i in gone else f"ok/{i}" for i in range(rows)]
    file.write_text("".join(f"row {i}\t{server.url(path)}\n" for i, path in enumerate(paths)))
    server.slow_s = 0.02
    source = urls.Config.model_validate({"kind": "urls", **values(file)})
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, source.model_dump_json(), str(tmp_path / "scratch")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while sum(server.asked.values()) < 60:
        assert killed.poll() is None
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = stored(tmp_path / "scratch")
    before = server.asked.copy()
    assert 0 < sum(before.values()) < rows
    assert len(kept) >= sum(before.values()) - LIMITS.per_host
    server.slow_s = 0.0
    monkeypatch.setattr(urls, "CHUNK", 20)
    after_it = read(tmp_path, file)
    assert not {path for path in paths if server.url(path) in kept and server.asked["/" + path] > 1}
    twice = [path for path, count in server.asked.items() if count > 1]
    assert len(twice) <= LIMITS.per_host, "only what was on its way when it was killed"
    assert [record.captions[0] for record in good(after_it)] == [
        f"row {i}" for i in range(rows) if i not in gone
    ]
    assert after_it == read(tmp_path, file)
    assert max(server.asked.values()) <= 2


def test_what_a_list_still_names_is_not_asked_for_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "CHUNK", 10)
    file = tmp_path / "list.tsv"

    def ask(numbers: list[int], **changed: Any) -> set[int]:
        before = server.asked.copy()
        file.write_text("".join(f"row {i}\t{server.url(f'ok/{i}')}\n" for i in numbers))
        rows = good(read(tmp_path, file, **changed))
        assert [record.image for record in rows] == [toy.picture(i) for i in numbers]
        return {i for i in range(60) if server.asked[f"/ok/{i}"] > before[f"/ok/{i}"]}

    first = list(range(50))
    assert ask(first) == set(first)
    assert ask(first, split="val") == set()
    assert ask([55, *first, 56]) == {55, 56}
    assert ask(first[31:]) == set()
    assert stored(tmp_path / "scratch") == {server.url(f"ok/{i}") for i in first[31:]}
