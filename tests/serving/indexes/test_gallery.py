"""A folder that a server keeps as an index."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from albef.serving.limits import Limits
from tests.serving.running import error, parts, running, wait_until

SEARCH = "/v1/indexes/gallery/search"


def count(client: httpx.Client) -> int | None:
    answer: dict[str, int] = client.get("/v1/indexes/gallery").json()
    return answer.get("images")


def test_a_gallery_follows_its_folder(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    folder, indexes = tmp_path / "pictures", tmp_path / "indexes"
    (folder / "sub").mkdir(parents=True)
    for i, picture in enumerate(pictures[:4]):
        (folder / f"{i}.png").write_bytes(picture)
    (folder / "sub/ä b.TIFF").write_bytes(pictures[4])
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    with running([tiny_export], gallery=folder, indexes=indexes) as server:
        wait_until(lambda: count(server.client) == 5)
        assert error(server.client.delete("/v1/indexes/gallery")) == (409, "read_only")
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(pictures[5])
    with running([tiny_export], gallery=folder, indexes=indexes) as server:

        def hits() -> list[dict[str, object]]:
            answer = server.client.post(SEARCH, files=parts("image", [pictures[5]]))
            found: list[dict[str, object]] = answer.json().get("results", [])
            return found

        def is_found() -> bool:  # what is gone is taken out before what has changed is read
            first = next(iter(hits()), {"id": None})
            return first["id"] == "1.png" and first["similarity"] == pytest.approx(1, abs=1e-5)

        wait_until(lambda: count(server.client) == 4 and is_found())
        for hit in hits():
            assert server.client.get(f"/v1/indexes/gallery/images/{hit['id']}").status_code == 200


def test_without_a_folder_indexes_last_as_long_as_the_server_and_are_bounded(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(pictures[0])
    with running([tiny_export], Limits(indexes=80_000), gallery=tmp_path) as server:
        wait_until(lambda: count(server.client) == 1)
        assert server.client.put("/v1/indexes/mine").status_code == 201
        noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        images = "/v1/indexes/mine/images"
        assert server.client.post(images, files=parts("image", [buffer.getvalue()])).is_success
        full = server.client.post(images, files=parts("image", pictures[:1]))
        assert error(full) == (409, "full")
        assert "--indexes FOLDER" in full.json()["error"]["message"]
        fields = [("text", (None, "a dog")), ("rerank", (None, "1"))]
        (hit,) = server.client.post(SEARCH, files=fields).json()["results"]
        assert hit["probability"] is not None
