"""Data that several tests of stages start from, made once."""

from pathlib import Path

import pytest

from tests.pipelines.test_training import step, values, work


@pytest.fixture(scope="session")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the validated data sets of :func:`values`, to be copied."""
    folder = tmp_path_factory.mktemp("validated")
    work(folder, values())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        step("heldout", "scenes")
        for dataset in ("web", "scenes"):
            step("ingest", dataset)
            step("validate", dataset)
    return folder
