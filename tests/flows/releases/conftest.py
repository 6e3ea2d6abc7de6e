"""A project whose export can be released, with git and DVC remotes of its own."""

import shutil
from pathlib import Path

import pytest

from flows.releases import release
from flows.releases.registry import Registry
from tests.conftest import made_once
from tests.flows.shop import JUDGED, build
from tests.flows.toy import Toy


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_export: Path) -> Toy:
    """An evaluated export, everything committed and pushed; tests work on copies."""

    def make(folder: Path) -> None:
        store = str(folder / "store")
        build(folder / "project", folder, store, tiny_checkpoint, tiny_export)

    folder = made_once(tmp_path_factory, "shop", make)
    return Toy(folder / "project", folder)


@pytest.fixture
def project(made: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A copy with remotes of its own; the working folder."""
    for name in ("project", "project.git", "store"):
        shutil.copytree(made.path.parent / name, tmp_path / name, symlinks=True)
    toy = Toy(tmp_path / "project", made.path.parent)
    config = toy.path / ".dvc/config"
    config.write_text(config.read_text().replace(f"{made.path.parent}/store", f"{tmp_path}/store"))
    toy.sh("git remote set-url origin ../project.git && git commit -qam remotes && git push -q")
    toy.enter(monkeypatch)
    return toy


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is up to date, where others find it, and was measured and found good."""
    monkeypatch.setattr(release, "stale_reasons", lambda run: ())
    monkeypatch.setattr(Registry, "lacking", lambda *args: ())
    monkeypatch.setattr(release, "_judge", lambda *args: JUDGED)
