import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import albef.runtime
from albef.io import file_digest
from albef.runtime.manifest import NAME
from albef.runtime.matching import Matching
from tests.conftest import KINDS
from tests.flows.shop import alter
from tests.serving.running import Running, running, wait_until

NAMES = ("a-dog-left-of-an-apple", "two-apples-above-a-squid", "IMG_1", "IMG_2", "three-frogs")
"""Of the pictures of the gallery."""


@pytest.fixture(scope="session")
def gallery(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    for name, picture in zip(NAMES, pictures, strict=False):
        (folder / f"{name}.png").write_bytes(picture)
    return folder


@pytest.fixture(scope="session")
def everything(
    tiny_exports: dict[str, Path], gallery: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server of all kinds, with a gallery that has been read and room for indexes."""
    folder = tmp_path_factory.mktemp("indexes")
    exports = [tiny_exports[kind] for kind in KINDS]
    with running(exports, gallery=gallery, indexes=folder) as server:
        wait_until(lambda: server.client.get("/v1/indexes/gallery").json().get("images") == 5)
        yield server


@pytest.fixture(scope="session")
def retrieval(tiny_export: Path) -> Iterator[Running]:
    """A server of a retrieval export, which keeps no indexes."""
    with running([tiny_export]) as server:
        yield server


@pytest.fixture(scope="session")
def model(tiny_export: Path) -> Matching:
    """The runtime's model of the retrieval export."""
    return albef.runtime.load(tiny_export)


@pytest.fixture
def exports(tiny_export: Path, tmp_path: Path) -> dict[str, Path]:
    """Two exports of one run whose answers differ, by what answers call them."""
    paths = {}
    for name in ("first", "second"):
        shutil.copytree(tiny_export, tmp_path / name)
        if name == "second":
            for graph in ("text_encoder", "image_encoder"):
                alter(tmp_path / name, graph, worse=True)
        paths[f"retrieval@{file_digest(tmp_path / name / NAME)[:12]}"] = tmp_path / name
    return paths
