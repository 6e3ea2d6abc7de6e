"""What several tests of stages start from: folders made once for all workers of a run."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import made_once
from tests.pipelines.test_training import step, values, work


@pytest.fixture(scope="session")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the validated data sets of :func:`values`, to be copied."""

    def make(folder: Path) -> None:
        work(folder, values())
        step("heldout", "scenes")
        for dataset in ("web", "scenes"):
            step("ingest", dataset)
            step("validate", dataset)

    return made_once(tmp_path_factory, "validated", make)


@pytest.fixture(scope="session")
def pretrained(validated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder with the checkpoint of :func:`values` to start from, to be copied."""

    def make(folder: Path) -> None:
        shutil.copytree(validated, folder, dirs_exist_ok=True)
        step("pretrain")

    return made_once(tmp_path_factory, "pretrained", make)
