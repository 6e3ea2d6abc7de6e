from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KINDS
from tests.serving.running import Running, running


@pytest.fixture(scope="session")
def everything(
    tiny_exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server of all kinds, with indexes."""
    folder = tmp_path_factory.mktemp("indexes")
    with running([tiny_exports[kind] for kind in KINDS], indexes=folder) as server:
        yield server


@pytest.fixture(scope="session")
def retrieval(tiny_export: Path) -> Iterator[Running]:
    """A server of a retrieval export, which keeps no indexes."""
    with running([tiny_export]) as server:
        yield server
