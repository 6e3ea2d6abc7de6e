"""Checkpoints by name, from a server on loopback that answers as the Hugging Face Hub does."""

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

import numpy as np
import pytest

import albef
from albef.models.weights import CheckpointError

COMMIT = "1f0e" * 10
PROGRAM = """
import json, logging, sys
import albef
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
for at in sys.argv[1:]:
    name, _, revision = at.partition("@")
    try:
        model = albef.load(name, revision=revision or None)
        print(json.dumps(model.embed_text("a dog").tolist()))
    except ValueError as error:
        print(json.dumps(f"{error}"))
"""


@pytest.fixture(scope="module")
def hub(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Hub with ``me/mine``, a checkpoint, and ``me/pickled``, which is none."""
    folder = tmp_path_factory.mktemp("hub")
    repositories = {"me/mine": tiny_checkpoint, "me/pickled": folder}
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"code")

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            found = repositories.get(name)
            if parts == [""]:
                self.answer(b"")
            elif found is None:
                self.refuse("RepoNotFound")
            elif parts[0] == "api":
                if parts[5:] not in ([], ["main"], ["v1"], [COMMIT]):
                    return self.refuse("RevisionNotFound")
                files = [{"rfilename": path.name} for path in found.iterdir()]
                about: object = {"id": name, "sha": COMMIT, "siblings": files}
                if parts[4] == "tree":
                    about = [
                        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"}
                        for path in found.iterdir()
                    ]
                self.answer(json.dumps(about).encode(), "application/json")
            else:
                assert parts[2:4] == ["resolve", COMMIT]
                assert not parts[4].endswith(".bin")
                self.answer((found / parts[4]).read_bytes())
            return None

        def answer(self, body: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", f"{len(body)}")
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def loaded(hub: str, home: Path, *names: str) -> tuple[list[Any], str]:
    """What a program prints that loads ``user/name@revision`` of each, and its log."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP"))
    }
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PROGRAM, *names]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_checkpoint_is_loaded_by_its_name_at_the_hub(
    hub: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = albef.load(tiny_checkpoint).embed_text("a dog")
    found, log = loaded(hub, tmp_path, "me/mine", "me/mine@v1", f"me/mine@{COMMIT}")
    np.testing.assert_allclose(np.array(found), [expected] * 3, atol=1e-6)
    assert log.count(f"me/mine: commit {COMMIT}") == 3
    files = {path.name for path in tmp_path.rglob(f"snapshots/{COMMIT}/*")}
    assert files == {"config.json", "model.safetensors", "tokenizer.json"}
    away = "http://127.0.0.1:9"  # Nothing listens: the cache has the commit.
    found, _ = loaded(away, tmp_path, f"me/mine@{COMMIT}")
    np.testing.assert_allclose(np.array(found), [expected], atol=1e-6)


def test_what_the_hub_lacks_is_said(hub: str, tmp_path: Path) -> None:
    (other, old, pickled), _ = loaded(hub, tmp_path, "me/other", "me/mine@v9", "me/pickled")
    assert "there is no folder me/other, and the Hugging Face Hub has not given" in other
    assert "has not given me/mine@v9" in old
    assert "RevisionNotFound" in old
    assert "is not a checkpoint: model.safetensors, tokenizer.json is missing" in pickled
    assert not [*tmp_path.rglob("*.bin")]


def test_a_folder_has_no_revision(tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, so remove revision"):
        albef.load(tiny_checkpoint, revision="main")
