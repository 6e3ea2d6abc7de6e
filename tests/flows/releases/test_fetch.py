"""`albef fetch` and `albef serve RUN#STAGE`: what holds a stage comes, from the remotes alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from albef.config import ParamsError
from albef.io import file_digest
from albef.release.attestation import LINEAGE, AttestationError, write
from albef.runtime.manifest import NAME
from flows import git
from flows.releases.fetch import main
from flows.releases.registry import Registry, annotate
from tests.data.toy import flip
from tests.flows.shop import another
from tests.flows.toy import Toy
from tests.release.test_attestation import keys

EXPORT = Path("products/exports/retrieval")


def release(version: str, digest: str = "", key: Path | None = None, signed_as: str = "") -> None:
    """Let a version of the project hold prod, a new one of the export as it is."""
    registry = Registry("retrieval")
    if version not in registry.versions:
        annotate("retrieval", Path("products"), EXPORT)
        folder = registry.release_folder(version)
        folder.mkdir(parents=True)
        hashes = {"sha256": digest or file_digest(EXPORT / NAME)}
        (folder / LINEAGE).write_text(json.dumps({"subject": [{"digest": hashes}]}))
        if key:
            write(EXPORT, folder, signed_as or version, git.git("rev-parse", "HEAD"), key)
        git.git("add", "-A")
        git.git("commit", "-qm", version)
        with Repo(".") as repo:
            repo.push()
        registry.register(version)
    Registry("retrieval").assign(version, "prod")
    git.git("push", "-q", "--tags", "origin", "HEAD")


@pytest.fixture
def clone(project: Toy, tmp_path: Path) -> Toy:
    """Another clone, without products or a cache."""
    project.sh("git clone -q ../project.git ../clone")
    return Toy(tmp_path / "clone", tmp_path)


@pytest.fixture
def fetch(clone: Toy, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:

    def fetch(key: Path | None = None) -> Path:
        with monkeypatch.context() as patch:
            patch.chdir(clone.path)
            (link,) = main(["retrieval#prod"], key)
        return link

    return fetch


def test_a_link_follows_the_registry_and_back(project: Toy, fetch: Callable[..., Path]) -> None:
    with pytest.raises(ParamsError, match="retrieval must be RUN#STAGE"):
        list(main(["retrieval"]))
    with pytest.raises(ParamsError, match="no version of retrieval holds prod; see `gto show`"):
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
    with pytest.raises(ParamsError, match=r"cannot fetch retrieval v0\.2\.0: "):
        fetch()
    shutil.move("../away", "../store")
    release("v0.3.0", digest="0")
    with pytest.raises(ParamsError, match=r"v0\.3\.0 has sha256:\w+, but its release has another"):
        fetch()
    assert link.readlink() == Path("v0.1.0")


def test_with_a_key_only_what_its_owner_signed_is_led_to(
    project: Toy, fetch: Callable[..., Path], tmp_path: Path
) -> None:
    private, public = keys(tmp_path, "ours")
    others, _ = keys(tmp_path, "theirs")
    release("v0.1.0", key=private)
    link = fetch(public)
    for version, key, signed_as, refusal in (
        ("v0.2.0", None, "", "releases/retrieval/v0.2.0/release.sig is missing"),
        ("v0.3.0", others, "", "v0.3.0/release.sig was not made with the private key of .*ours"),
        ("v0.4.0", private, "v0.1.0", "tag retrieval@v0.4.0 points to .* signed as retrieval v0.1"),
    ):
        release(version, key=key, signed_as=signed_as)
        with pytest.raises(AttestationError, match=refusal):
            fetch(public)
        assert link.readlink() == Path("v0.1.0")
    assert fetch().readlink() == Path("v0.4.0")
    with pytest.raises(AttestationError, match="that was signed as"):
        fetch(public)  # although it is here
    release("v0.1.0")
    fetch(public)
    flip(link / "tokenizer.json")
    with pytest.raises(
        AttestationError, match=r"retrieval v0.1.0 differs from what was signed: tokenizer.js"
    ):
        fetch(public)
    project.sh(
        "git commit -q --allow-empty -m none && gto register retrieval HEAD --version v0.5.0"
    )
    release("v0.5.0")
    with pytest.raises(ParamsError, match=r"v0.5.0 is not signed: its commit has no releases/ret"):
        fetch(public)
