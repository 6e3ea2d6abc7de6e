"""What several tests of stages start from: folders made once for all workers of a run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from albef.io import lock
from tests.pipelines.test_training import step, values, work


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for all workers of a run, which the first that needs it makes."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / f"stages-{name}", root / f"stages-{name}.done"
    with lock(root / f"stages-{name}.lock", wait=str):
        if not done.exists():
            folder.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the validated data sets of :func:`values`, to be copied."""

    def make(folder: Path) -> None:
        work(folder, values())
        step("heldout", "scenes")
        for dataset in ("web", "scenes"):
            step("ingest", dataset)
            step("validate", dataset)

    return _made_once(tmp_path_factory, "validated", make)


@pytest.fixture(scope="session")
def pretrained(validated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder with the checkpoint of :func:`values` to start from, to be copied."""

    def make(folder: Path) -> None:
        shutil.copytree(validated, folder, dirs_exist_ok=True)
        step("pretrain")

    return _made_once(tmp_path_factory, "pretrained", make)
