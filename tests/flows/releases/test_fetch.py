"""`albef fetch` and `albef serve RUN#STAGE`: what holds a stage comes, from the remotes alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from albef.config import ParamsError
from albef.io import file_digest
from albef.release.attestation import LINEAGE
from albef.runtime.manifest import NAME
from flows import git
from flows.releases.fetch import main
from flows.releases.registry import Registry, annotate
from tests.flows.shop import another
from tests.flows.toy import Toy
from tests.serving.running import PATIENCE, wait_until

EXPORT = Path("products/exports/retrieval")


def release(version: str, digest: str = "") -> None:
    """Let a version of the project hold prod, a new one of the export as it is."""
    registry = Registry("retrieval")
    if version not in registry.versions:
        annotate("retrieval", Path("products"), EXPORT)
        told = Path("releases/retrieval", version, LINEAGE)
        told.parent.mkdir(parents=True)
        hashes = {"sha256": digest or file_digest(EXPORT / NAME)}
        told.write_text(json.dumps({"subject": [{"digest": hashes}]}))
        git.git("add", "-A")
        git.git("commit", "-qm", version)
        subprocess.run([sys.executable, "-m", "dvc", "push", "-q"], check=True)
        registry.register(version)
    Registry("retrieval").assign(version, "prod")
    git.git("push", "-q", "--tags", "origin", "HEAD")


@pytest.fixture
def clone(project: Toy, tmp_path: Path) -> Toy:
    """Another clone, without products or a cache."""
    project.sh("git clone -q ../project.git ../clone")
    return Toy(tmp_path / "clone", tmp_path)


def test_a_link_follows_the_registry_and_back(
    project: Toy, clone: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch() -> Path:
        with monkeypatch.context() as patch:
            patch.chdir(clone.path)
            (link,) = main(["retrieval#prod"])
        return link

    with pytest.raises(ParamsError, match="no version of retrieval holds prod; `gto show` lists"):
        fetch()
    for version in ("v0.1.0", "v0.2.0"):
        release(version)
        link = fetch()
        assert link.readlink() == Path(version)
        assert file_digest(link / NAME) == file_digest(EXPORT / NAME)
        (link.parent / "v0.2.0.9.9.part").mkdir()  # as a kill leaves it
        if version == "v0.1.0":
            another(project)
    shutil.move("../store", "../away")
    release("v0.1.0")
    assert fetch().readlink() == Path("v0.1.0")  # which is here, as it may be served still
    there = sorted(path.name for path in link.parent.iterdir())
    assert there == [".lock", "prod", "v0.1.0", "v0.2.0"]
    shutil.rmtree(link.parent / "v0.2.0")
    release("v0.2.0")
    with pytest.raises(ParamsError, match=r"retrieval v0\.2\.0 cannot be fetched: "):
        fetch()
    shutil.move("../away", "../store")
    release("v0.3.0", digest="0")
    with pytest.raises(ParamsError, match=r"v0\.3\.0 was fetched as sha256:\w+, which is not what"):
        fetch()
    assert link.readlink() == Path("v0.1.0")


@pytest.mark.slow
def test_a_server_follows_a_release_and_back(project: Toy, clone: Toy) -> None:
    digests = [file_digest(EXPORT / NAME)]
    release("v0.1.0")
    process = clone.start("serve retrieval#prod --port 0 --follow 600")
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "serving at " in line:
                break
        address = json.loads(line)["message"].removeprefix("serving at ")

        def served() -> str:
            answer = httpx.get(f"{address}/v1/model", timeout=PATIENCE).json()
            digest: str = answer["models"][0]["digest"]
            return digest

        assert served() == digests[0]
        another(project)
        digests.append(file_digest(EXPORT / NAME))
        release("v0.2.0")
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: served() == digests[1])
        release("v0.1.0")
        os.kill(process.pid, signal.SIGHUP)
        wait_until(lambda: served() == digests[0])
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
