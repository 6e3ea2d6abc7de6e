import io
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import albef
from tests.conftest import CAPTIONS
from tests.serving.running import Running, error, running

TEXTS = [*CAPTIONS, "A dog, left of an APPLE!", "squid"]


def parts(field: str, images: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, ("a.png", image)) for image in images]


def test_embeds_as_the_runtime_does(
    everything: Running, tiny_export: Path, pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_export)
    answer = everything.client.post("/v1/embed/images", files=parts("image", pictures)).json()
    assert answer["model"] == f"retrieval@{model.digest[:12]}"
    np.testing.assert_allclose(answer["embeddings"], model.embed_image(pictures), atol=1e-5)
    answer = everything.client.post("/v1/embed/texts", json={"texts": TEXTS}).json()
    np.testing.assert_allclose(answer["embeddings"], model.embed_text(TEXTS), atol=1e-5)


@pytest.mark.parametrize(("some", "texts"), [(4, 4), (1, 6), (6, 1)])
def test_matches_as_the_runtime_does(
    everything: Running, tiny_export: Path, pictures: list[bytes], some: int, texts: int
) -> None:
    answer = everything.client.post(
        "/v1/match", files=parts("image", pictures[:some]), data={"text": TEXTS[:texts]}
    ).json()
    count = max(some, texts)
    expected = albef.runtime.load(tiny_export).match(
        [pictures[i % some] for i in range(count)], [TEXTS[i % texts] for i in range(count)]
    )
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_asks_entails_compares_and_grounds_as_the_runtime_does(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    post, load = everything.client.post, albef.runtime.load
    image, second = pictures[1], pictures[2]
    one = {"image": ("a.png", image)}
    answer = post("/v1/ask", files=one, data={"question": TEXTS[:2], "k": "2"}).json()
    expected = load(tiny_exports["vqa"]).ask([image] * 2, TEXTS[:2], 2)
    told = [[(a["text"], a["probability"]) for a in own] for own in answer["answers"]]
    assert [[a[0] for a in own] for own in told] == [[a.text for a in own] for own in expected]
    np.testing.assert_allclose(
        [[a[1] for a in own] for own in told],
        [[a.probability for a in own] for own in expected],
        atol=1e-5,
    )
    answer = post("/v1/entail", files=one, data={"statement": TEXTS}).json()
    for own, right in zip(
        answer["results"], load(tiny_exports["entailment"]).entail([image] * 6, TEXTS), strict=True
    ):
        assert own["probabilities"] == pytest.approx(right, abs=1e-5)
        assert own["label"] == max(right, key=lambda label: right[label])
    both = {"first": ("a.png", image), "second": ("b.jpg", second)}
    answer = post("/v1/compare", files=both, data={"statement": TEXTS}).json()
    nlvr2 = load(tiny_exports["nlvr2"])
    for own, right in zip(
        answer["results"], nlvr2.compare([image] * 6, [second] * 6, TEXTS), strict=True
    ):
        assert own["probabilities"] == pytest.approx(right, abs=1e-5)
    boxes = [(0.0, 0.0, 10.0, 9.0), (12.0, 5.0, 9.5, 12.0)]
    sent = {"expression": TEXTS, "boxes": "[[0, 0, 10, 9], [12, 5, 9.5, 12]]"}
    answer = post("/v1/ground", files=one, data=sent).json()
    assert (answer["width"], answer["height"]) == (30, 20)
    found = load(tiny_exports["grounding"]).ground([image] * 6, TEXTS, [boxes] * 6)
    for own, right in zip(answer["results"], found, strict=True):
        assert own["probability"] == pytest.approx(right.probability, abs=1e-5)
        assert own["best"] == right.best
        np.testing.assert_allclose(own["heat"], right.heat, atol=1e-5)
        assert own["box"] == (right.box and pytest.approx(right.box))


@pytest.mark.parametrize("boxes", ["[[0, 0, NaN, 1]]", "[[0, 0, 0, 1]]", "[]", "[[1]]", "{", "1e9"])
def test_wrong_boxes_are_refused(everything: Running, pictures: list[bytes], boxes: str) -> None:
    answer = everything.client.post(
        "/v1/ground", files=parts("image", pictures[:1]), data={"expression": "a", "boxes": boxes}
    )
    assert error(answer) == (422, "invalid")


def test_a_call_that_nobody_has_names_those_there_are(
    retrieval: Running, pictures: list[bytes]
) -> None:
    answer = retrieval.client.post("/v1/ask", files=parts("image", pictures[:1]))
    assert error(answer) == (404, "no_such_call")
    assert "/v1/embed/images, /v1/embed/texts, /v1/match" in answer.json()["error"]["message"]
    assert "/v1/ask" not in retrieval.client.get("/openapi.json").json()["paths"]


def test_says_what_it_serves(everything: Running, tiny_exports: dict[str, Path]) -> None:
    answer = everything.client.get("/v1/model").json()
    assert [model["kind"] for model in answer["models"]] == list(tiny_exports)
    assert answer["calls"] == {
        "embed_image": "retrieval",
        "embed_text": "retrieval",
        "match": "retrieval",
        "ask": "vqa",
        "entail": "entailment",
        "compare": "nlvr2",
        "ground": "grounding",
    }
    digest = albef.runtime.load(tiny_exports["vqa"]).digest
    assert answer["models"][1]["digest"] == digest


def test_health_readiness_and_metrics(retrieval: Running, pictures: list[bytes]) -> None:
    client = retrieval.client
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/embed/images", files=parts("image", pictures)).raise_for_status()
    page = client.get("/metrics").text
    line = 'albef_requests_total{method="POST",route="/v1/embed/images",status="200"}'
    assert line in page
    assert 'albef_batch_items_count{run="retrieval",step="pictures"}' in page
    assert 'albef_model_info{digest="' in page
    assert "process_resident_memory_bytes" in page


def test_the_page_and_its_headers(retrieval: Running) -> None:
    page = retrieval.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/web/index.html", "/docs", "/redoc"):
        assert retrieval.client.get(path).status_code == 404


def test_an_index_is_made_filled_searched_and_deleted(
    everything: Running, tiny_export: Path, pictures: list[bytes]
) -> None:
    client = everything.client
    assert error(client.get("/v1/indexes/zoo")) == (404, "no_such_index")
    assert client.put("/v1/indexes/zoo").status_code == 201
    assert client.put("/v1/indexes/zoo").status_code == 200
    names = [f"p{i}.png" for i in range(6)]
    files = parts("image", pictures)
    added = client.post("/v1/indexes/zoo/images", files=files, data={"id": names}).json()
    assert (added["ids"], added["pictures"]) == (names, 6)
    model = albef.runtime.load(tiny_export)
    feats, text = model.embed_image(pictures), "two apples above a squid"
    sims = feats @ model.embed_text([text])[0]

    search = "/v1/indexes/zoo/search"
    none = [("unused", (None, ""))]  # a form of several parts, without a file
    hits = client.post(search, data={"text": text, "k": "4"}, files=none).json()["results"]
    assert [hit["id"] for hit in hits] == [names[i] for i in np.argsort(-sims)[:4]]
    np.testing.assert_allclose([hit["similarity"] for hit in hits], np.sort(-sims)[:4] * -1, 1e-4)
    assert {hit["probability"] for hit in hits} == {None}

    sent = {"text": text, "k": "6", "rerank": "4"}
    for _ in range(2):  # the second time with what the first has kept
        hits = client.post(search, data=sent, files=none).json()["results"]
        best = np.argsort(-sims)[:4]
        chance = model.match([pictures[i] for i in best], [text] * 4)
        order = best[np.argsort(-chance)]
        told = [names[i] for i in (*order, *np.argsort(-sims)[4:])]
        assert [hit["id"] for hit in hits] == told
        np.testing.assert_allclose(
            [hit["probability"] for hit in hits[:4]], np.sort(-chance) * -1, atol=1e-5
        )

    hits = client.post(search, files=parts("image", [pictures[3]])).json()["results"]
    assert hits[0]["id"] == "p3.png"
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-5)

    shown = client.get("/v1/indexes/zoo/images/p1.png")
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (30, 20)
    assert error(client.get("/v1/indexes/zoo/images/p9.png")) == (404, "no_such_image")
    replaced = {"image": ("a.png", pictures[0])}
    assert (
        client.post("/v1/indexes/zoo/images", files=replaced, data={"id": "p1.png"}).json()[
            "pictures"
        ]
        == 6
    )
    hits = client.post(search, files=parts("image", [pictures[0]]), data={"k": "2"}).json()
    assert {hit["id"] for hit in hits["results"]} == {"p0.png", "p1.png"}

    assert client.delete("/v1/indexes/zoo/images/p1.png").status_code == 204
    assert client.get("/v1/indexes/zoo").json()["pictures"] == 5
    assert client.delete("/v1/indexes/zoo").status_code == 204
    assert client.get("/v1/indexes").json() == {"indexes": []}


def test_pictures_without_names_are_called_by_their_digest(
    everything: Running, pictures: list[bytes]
) -> None:
    client = everything.client
    client.put("/v1/indexes/twice")
    for _ in range(2):
        answer = client.post("/v1/indexes/twice/images", files=parts("image", pictures[:2])).json()
        assert answer["pictures"] == 2
    assert error(
        client.post(
            "/v1/indexes/twice/images", files=parts("image", pictures[:2]), data={"id": "one"}
        )
    ) == (422, "invalid")
    client.delete("/v1/indexes/twice")


def test_a_search_needs_one_query(everything: Running, pictures: list[bytes]) -> None:
    client = everything.client
    client.put("/v1/indexes/any")
    both = client.post(
        "/v1/indexes/any/search", files=parts("image", pictures[:1]), data={"text": "a dog"}
    )
    assert error(both) == (422, "invalid")
    empty = client.post("/v1/indexes/any/search", files=parts("image", pictures[:1]))
    assert empty.json()["results"] == []
    client.delete("/v1/indexes/any")


def test_an_index_outlives_the_server_but_not_its_model(
    tiny_exports: dict[str, Path], tmp_path: Path, pictures: list[bytes]
) -> None:
    with running([tiny_exports["retrieval"]], indexes=tmp_path) as server:
        server.client.put("/v1/indexes/kept")
        server.client.post("/v1/indexes/kept/images", files=parts("image", pictures))
    with running([tiny_exports["retrieval"]], indexes=tmp_path) as server:
        hits = server.client.post("/v1/indexes/kept/search", files=parts("image", pictures[:1]))
        assert len(hits.json()["results"]) == 6
    with running([tiny_exports["grounding"]], indexes=tmp_path) as server:
        client = server.client
        assert client.get("/v1/indexes/kept").json()["usable"] is False
        answer = client.post("/v1/indexes/kept/search", files=parts("image", pictures[:1]))
        assert error(answer) == (409, "other_model")
        assert "made by another model (run retrieval)" in answer.json()["error"]["message"]
        assert error(client.put("/v1/indexes/kept")) == (409, "other_model")
        assert client.delete("/v1/indexes/kept").status_code == 204


def gallery_of(client: httpx.Client, count: int) -> None:
    deadline = time.monotonic() + 10
    while client.get("/v1/indexes/gallery").json().get("pictures") != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
        gallery_of(server.client, 5)
        answer = server.client.delete("/v1/indexes/gallery")
        assert error(answer) == (409, "read_only")
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(pictures[5])
    with running([tiny_export], gallery=folder, indexes=indexes) as server:
        gallery_of(server.client, 4)
        search, deadline = "/v1/indexes/gallery/search", time.monotonic() + 10
        while True:  # what is gone is taken out before what has changed is read
            found = server.client.post(search, files=parts("image", [pictures[5]])).json()[
                "results"
            ]
            assert len(found) == 4
            if found[0]["id"] == "1.png" and found[0]["similarity"] > 1 - 1e-5:
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert all(
            server.client.get(f"/v1/indexes/gallery/images/{hit['id']}").status_code == 200
            for hit in found
        )


def test_without_a_folder_there_is_the_gallery_alone(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(pictures[0])
    with running([tiny_export], gallery=tmp_path) as server:
        gallery_of(server.client, 1)
        assert error(server.client.put("/v1/indexes/mine")) == (409, "read_only")
        hits = server.client.post(
            "/v1/indexes/gallery/search", files=[("text", (None, "a dog")), ("rerank", (None, "1"))]
        )
        assert hits.json()["results"][0]["probability"] is not None


def test_beyond_the_bound_faiss_searches(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export], indexes=tmp_path, exact=3) as server:
        server.client.put("/v1/indexes/large")
        server.client.post("/v1/indexes/large/images", files=parts("image", pictures))
        deadline = time.monotonic() + 10
        while not server.client.get("/v1/indexes/large").json()["approximate"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        hits = server.client.post("/v1/indexes/large/search", files=parts("image", pictures[2:3]))
        assert hits.json()["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)
