"""Datasets in the Hub's layout, local and from a server that speaks the Hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import ParamsError
from tests.data import toy
from tests.ingest.sources.reading import config_of, good, read

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHILD = """
import json, sys
from albef.config import ParamsError
from albef.ingest.sources import kind_of
from tests.ingest.sources.reading import config_of, good
for values in json.loads(sys.argv[1]):
    try:
        source = config_of("huggingface", image="image", captions=["caption"], **values)
        rows = [row.captions[0] for row in good(kind_of(source).records(source, 0))]
        print(json.dumps({"rows": rows, "inputs": sorted(source.inputs())}))
    except ParamsError as error:
        print(json.dumps({"error": str(error)}))
"""


def table(path: Path, *captions: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": toy.picture(len(text)), "path": "a.png"} for text in captions]
    pq.write_table(pa.table({"image": images, "caption": captions}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    table(root / "data/train-00000-of-00002.parquet", "one", "three")
    table(root / "data/train-00001-of-00002.parquet", "five")
    table(root / "validation/a.parquet", "a")
    table(root / "validation/b.parquet", "b")
    table(root / "default/test/0000.parquet", "c")
    table(root / "data/latest-0.parquet", "of another split")
    table(root / "plain/train-0.parquet", "plain")
    (root / "data/train-x.tar").write_bytes(b"not Parquet")
    return root


def captions(folder: Path, splits: dict[str, str], **values: Any) -> list[tuple[str, str]]:
    rows = read(
        "huggingface", dataset=str(folder), splits=splits, image="image", captions=["caption"],
        **values,
    )  # fmt: skip
    return [(row.split, row.captions[0]) for row in good(rows)]


def test_names_of_files_tell_their_split(folder: Path) -> None:
    splits = {"train": "train", "val": "validation", "test": "test"}
    rows = {"train": ("one", "three", "five"), "val": ("a", "b"), "test": ("c",)}
    assert captions(folder, splits) == [(split, text) for split in rows for text in rows[split]]
    assert captions(folder, {"test": "train"}, config="plain") == [("test", "plain")]
    assert captions(folder, {"train": "plain/*"}) == [("train", "plain")]
    for number in range(2):
        part = folder / f"data/train-0000{number}-of-00002.parquet"
        part.rename(part.with_stem(f"{part.stem}-{number}a4c0"))
    assert len(captions(folder, {"train": "train"})) == 3, "each part may end with a hash"
    source = config_of(
        "huggingface", dataset=str(folder), splits=splits, image="image", captions=["caption"]
    )
    assert len(source.inputs()) == 5
    assert source.evaluated().splits == {"val": "validation", "test": "test"}
    assert source.model_copy(update={"splits": {"train": "train"}}).evaluated() is None


def test_a_dataset_that_cannot_be_read_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ParamsError, match=r"no Parquet file valid/\*.* splits .*revision: refs"):
        captions(folder, {"val": "valid/*"})
    (folder / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(ParamsError, match=r"has 1 of 2 files data/train-\*-of-00002\*\.parquet"):
        captions(folder, {"train": "train"})


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """A server with the dataset ``a/open``, and ``a/gated`` for those with a token."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path, _, _ = self.path.partition("?")
            parts = path.strip("/").split("/")
            files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
            names = {p.relative_to(folder).as_posix(): p for p in files}
            if parts == [""]:
                self.answer()
            elif "/".join(parts[-4:-2]) not in ("a/open", "a/gated") and parts[0] == "api":
                self.answer(status=404, X_Error_Code="RepoNotFound")
            elif parts[-2:-1] == ["revision"] and parts[-1] not in ("main", "v1", COMMIT):
                self.answer(status=404, X_Error_Code="RevisionNotFound")
            elif parts[-2:-1] == ["revision"]:
                siblings = [{"rfilename": name} for name in names]
                about = {"id": "a/open", "sha": COMMIT, "siblings": siblings}
                self.answer(json.dumps(about).encode())
            elif parts[-2:-1] == ["tree"]:
                tree = [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": n}
                    for n, p in names.items()
                ]
                self.answer(json.dumps(tree).encode())
            elif parts[2] == "gated" and self.headers["Authorization"] != "Bearer secret":
                self.answer(status=403, X_Error_Code="GatedRepo")
            else:
                content = names["/".join(parts[5:])].read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def outcomes(home: Path, values: list[dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
    """What the library of the Hub makes of some sources, in another process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(values)],
        env={**clean, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_hub_is_read_by_its_protocol_and_then_from_the_cache(hub: str, tmp_path: Path) -> None:
    train = {"dataset": "a/open", "splits": {"train": "train"}}
    val = {**train, "splits": {"val": "validation"}}
    sources = [
        {**train, "revision": "v1"},
        {**train, "revision": "v2"},
        {**train, "dataset": "a/none"},
        {**train, "dataset": "a/gated"},
        {**train, "dataset": "no such folder"},
    ]
    found, revision, name, gated, folder = outcomes(tmp_path / "home", sources, HF_ENDPOINT=hub)
    files = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    assert found == {
        "rows": ["one", "three", "five"],
        "inputs": [f"a/open@{COMMIT}/{file}" for file in files],
    }
    assert "has no revision v2" in revision["error"]
    assert f"is neither a folder nor at {hub}/datasets/a/none; correct it" in name["error"]
    assert f"accept its terms at {hub}/datasets/a/gated, then set HF_TOKEN" in gated["error"]
    assert "neither a folder nor a name OWNER/NAME" in folder["error"]
    cached = list((tmp_path / "home").rglob("*.tar"))
    assert not cached, "only Parquet is downloaded"

    pinned = {**train, "revision": COMMIT}
    offline = outcomes(tmp_path / "home", [sources[0], pinned, val], HF_HUB_OFFLINE="1")
    assert offline[:2] == [found, found]
    assert "run ingest once with a network" in offline[2]["error"]
    home = tmp_path / "other"
    [gated] = outcomes(home, [sources[3]], HF_ENDPOINT=hub, HF_TOKEN="secret")
    assert gated["rows"] == found["rows"]
