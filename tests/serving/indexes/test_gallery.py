"""A folder that a server keeps as an index."""

from pathlib import Path

import httpx
import pytest

from tests.serving.running import error, parts, running, wait_until

SEARCH = "/v1/indexes/gallery/search"


def count(client: httpx.Client) -> int | None:
    answer: dict[str, int] = client.get("/v1/indexes/gallery").json()
    return answer.get("pictures")


def test_a_gallery_follows_its_folder(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    folder, indexes = tmp_path / "pictures", tmp_path / "indexes"
    (folder / "sub").mkdir(parents=True)
    for i, picture in enumerate(pictures[:4]):
        (folder / f"{i}.png").write_bytes(picture)
    (folder / "sub/ä b.png").write_bytes(pictures[4])
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


def test_without_a_folder_of_indexes_there_is_the_gallery_alone(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(pictures[0])
    with running([tiny_export], gallery=tmp_path) as server:
        wait_until(lambda: count(server.client) == 1)
        assert error(server.client.put("/v1/indexes/mine")) == (409, "read_only")
        fields = [("text", (None, "a dog")), ("rerank", (None, "1"))]
        (hit,) = server.client.post(SEARCH, files=fields).json()["results"]
        assert hit["probability"] is not None
