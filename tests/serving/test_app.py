import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import albef
from albef.runtime.loading import CAPABILITIES
from albef.runtime.matching import Matching
from albef.serving.indexes.index import About, Entry
from albef.serving.indexes.store import Store
from albef.serving.routes.calls import CALLS
from tests.conftest import CAPTIONS, KINDS
from tests.serving.running import Running, describe, error, parts, running, wait_until

TEXTS = [*CAPTIONS, "A dog, left of an APPLE!", "squid"]


def form(**fields: str) -> list[tuple[str, tuple[None, str]]]:
    """A form of several parts, without a file."""
    return [(name, (None, value)) for name, value in fields.items()]


def test_embeds_and_matches_as_the_runtime_does(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    answer = everything.client.post("/v1/embed/images", files=parts("image", pictures)).json()
    assert answer["model"] == f"retrieval@{model.digest[:12]}"
    np.testing.assert_allclose(answer["embeddings"], model.embed_image(pictures), atol=1e-5)
    answer = everything.client.post("/v1/embed/texts", json={"texts": TEXTS}).json()
    np.testing.assert_allclose(answer["embeddings"], model.embed_text(TEXTS), atol=1e-5)
    for some, texts in ((4, 4), (1, 6), (6, 1)):
        files, sent = parts("image", pictures[:some]), {"text": TEXTS[:texts]}
        answer = everything.client.post("/v1/match", files=files, data=sent).json()
        pairs = [(pictures[i % some], TEXTS[i % texts]) for i in range(max(some, texts))]
        expected = model.match(*map(list, zip(*pairs, strict=True)))
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_classifies_as_the_runtime_does(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    labels, files = ["a dog", "an apple", "frogs"], parts("image", pictures)
    for sent in ({"label": labels}, {"label": labels, "template": ["{}", "only {}"]}):
        answer = everything.client.post("/v1/zero-shot", files=files, data=sent).json()
        right = model.zero_shot(pictures, *sent.values())
        found = [list(result["probabilities"].values()) for result in answer["results"]]
        np.testing.assert_allclose(found, right, atol=1e-4)
        best = [labels[i] for i in right.argmax(axis=1)]
        assert [result["label"] for result in answer["results"]] == best


def test_below_the_least_probability_an_image_has_no_label(
    tiny_export: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export], min_probability=0.99) as server:
        files, labels = parts("image", pictures[:1]), {"label": ["a dog", "an apple"]}
        answer = server.client.post("/v1/zero-shot", files=files, data=labels).json()
    assert answer["results"] == [{"label": None, "probabilities": {}}]


def test_wrong_fields_are_refused(everything: Running, pictures: list[bytes]) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("zero-shot", {}, "label: Field required"),
        ("zero-shot", {"label": ["a dog", "a dog"]}, "each class once"),
        ("zero-shot", {"label": ["a"], "template": ["{}", "b"]}, "template must have {} once"),
        ("zero-shot", {"label": [*map(str, range(101))]}, "label: List should have at most 100"),
    ]
    for boxes in ("[[0, 0, NaN, 1]]", "[[0, 0, 0, 1]]", "[]", "[[1]]", "{", "1e9"):
        wrong.append(("ground", {"expression": "a", "boxes": boxes}, "boxes: "))
    for call, sent, said in wrong:
        files = parts("image", pictures[:1])
        answer = everything.client.post(f"/v1/{call}", files=files, data=sent)
        assert error(answer) == (422, "invalid")
        assert said in answer.json()["error"]["message"]


def test_asks_as_the_runtime_does(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    sent = {"question": TEXTS[:2], "k": "2"}
    answer = everything.client.post("/v1/ask", files=parts("image", pictures[1:2]), data=sent)
    right = albef.runtime.load(tiny_exports["vqa"]).ask([pictures[1]] * 2, TEXTS[:2], 2)
    for answers, expected in zip(answer.json()["answers"], right, strict=True):
        assert [each["text"] for each in answers] == [each.text for each in expected]
        chances = [each.probability for each in expected]
        assert [each["probability"] for each in answers] == pytest.approx(chances, abs=1e-5)


def test_judges_as_the_runtime_does(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    for kind, call, fields in (
        ("entailment", "entail", ["image"]),
        ("nlvr2", "compare", ["first", "second"]),
    ):
        files = {name: ("a.png", each) for name, each in zip(fields, pictures, strict=False)}
        answer = everything.client.post(f"/v1/{call}", files=files, data={"statement": TEXTS})
        images = [[picture] * len(TEXTS) for picture in pictures[: len(fields)]]
        right = getattr(albef.runtime.load(tiny_exports[kind]), call)(*images, TEXTS)
        for result, expected in zip(answer.json()["results"], right, strict=True):
            assert result["probabilities"] == pytest.approx(expected, abs=1e-5)
            assert result["label"] == max(expected, key=expected.__getitem__)


def test_grounds_as_the_runtime_does(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    boxes = [(0.0, 0.0, 10.0, 9.0), (12.0, 5.0, 9.5, 12.0)]
    sent = {"expression": TEXTS, "boxes": "[[0, 0, 10, 9], [12, 5, 9.5, 12]]"}
    files = parts("image", pictures[1:2])
    answer = everything.client.post("/v1/ground", files=files, data=sent).json()
    assert (answer["width"], answer["height"]) == (30, 20)
    model = albef.runtime.load(tiny_exports["grounding"])
    for result, right in zip(
        answer["results"], model.ground([pictures[1]] * 6, TEXTS, [boxes] * 6), strict=True
    ):
        assert result["probability"] == pytest.approx(right.probability, abs=1e-5)
        assert result["best"] == right.best
        np.testing.assert_allclose(result["heat"], right.heat, atol=1e-5)
        assert result["box"] == (right.box and pytest.approx(right.box))


def test_every_call_of_the_runtime_is_served_and_documented() -> None:
    kinds = CAPABILITIES.values()
    assert {call for kind in kinds for call in (kind.main, *kind.extra_calls)} == CALLS.keys()
    reference = (Path(__file__).parents[2] / "docs/how-to/serve.md").read_text()
    assert all(f"| `POST {path}` |" in reference for path in CALLS.values())


def test_a_call_that_no_export_has_is_refused(retrieval: Running, pictures: list[bytes]) -> None:
    files = parts("image", pictures[:1])
    answer = retrieval.client.post("/v1/ask", files=files, data={"question": "what is it?"})
    assert error(answer) == (404, "no_such_call")
    assert "its calls are embed_image, embed_text, match" in answer.json()["error"]["message"]


def test_a_user_defined_kind_is_classified(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_exports["entailment"], tmp_path / "mine")
    describe(folder, kind="mine", surface="classifying")
    files = parts("image", pictures[:1])
    right = everything.client.post("/v1/entail", files=files, data={"statement": TEXTS}).json()
    with running([folder]) as server:
        answer = server.client.post("/v1/classify", files=files, data={"text": TEXTS}).json()
        assert answer["results"] == right["results"]
        assert server.client.get("/v1/model").json()["calls"] == {"classify": "entailment"}


def test_says_what_it_serves_and_how_it_is(
    everything: Running, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    client = everything.client
    answer = client.get("/v1/model").json()
    assert [model["kind"] for model in answer["models"]] == list(KINDS)
    calls = dict.fromkeys(("embed_image", "embed_text", "match", "zero_shot"), "retrieval")
    calls |= {"ask": "vqa", "entail": "entailment", "compare": "nlvr2", "ground": "grounding"}
    assert answer["calls"] == calls
    digest = albef.runtime.load(tiny_exports["vqa"]).digest
    assert answer["models"][1]["digest"] == digest
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/embed/images", files=parts("image", pictures)).raise_for_status()
    for path in ("/v1/model", "/", "/healthz"):
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
    page = client.get("/metrics").text
    for line in (
        'albef_requests_total{method="POST",route="/v1/embed/images",status="200"}',
        'albef_requests_total{method="HEAD",route="/v1/model",status="200"}',
        'albef_batch_items_count{run="retrieval",step="images"}',
        'albef_model_info{digest="',
        "process_resident_memory_bytes",
    ):
        assert line in page


def test_the_page_and_no_other_file_is_shown(retrieval: Running) -> None:
    assert retrieval.client.get("/").headers["content-type"].startswith("text/html")
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/web/index.html", "/docs", "/redoc"):
        assert retrieval.client.get(path).status_code == 404


def test_an_index_is_made_filled_searched_and_deleted(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    client = everything.client
    assert error(client.get("/v1/indexes/zoo")) == (404, "no_such_index")
    assert client.put("/v1/indexes/zoo").status_code == 201
    assert client.put("/v1/indexes/zoo").status_code == 200
    names = [f"p{i}.png" for i in range(6)]
    files = parts("image", pictures)
    added = client.post("/v1/indexes/zoo/images", files=files, data={"id": names}).json()
    assert (added["ids"], added["images"]) == (names, 6)
    feats, text = model.embed_image(pictures), "two apples above a squid"
    sims = feats @ model.embed_text([text])[0]

    search = "/v1/indexes/zoo/search"
    hits = client.post(search, files=form(text=text, k="4")).json()["results"]
    assert [hit["id"] for hit in hits] == [names[i] for i in np.argsort(-sims)[:4]]
    np.testing.assert_allclose([hit["similarity"] for hit in hits], np.sort(-sims)[:4] * -1, 1e-4)
    assert {hit["probability"] for hit in hits} == {None}

    for _ in range(2):  # the second time with what the first has kept
        hits = client.post(search, files=form(text=text, k="6", rerank="4")).json()["results"]
        best = np.argsort(-sims)[:4]
        chance = model.match([pictures[i] for i in best], [text] * 4)
        order = best[np.argsort(-chance)]
        expected = [names[i] for i in (*order, *np.argsort(-sims)[4:])]
        assert [hit["id"] for hit in hits] == expected
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
    answer = client.post("/v1/indexes/zoo/images", files=replaced, data={"id": "p1.png"})
    assert answer.json()["images"] == 6
    hits = client.post(search, files=parts("image", [pictures[0]]), data={"k": "2"}).json()
    assert {hit["id"] for hit in hits["results"]} == {"p0.png", "p1.png"}

    assert client.delete("/v1/indexes/zoo/images/p1.png").status_code == 204
    assert client.get("/v1/indexes/zoo").json()["images"] == 5
    assert client.delete("/v1/indexes/zoo").status_code == 204
    assert error(client.get("/v1/indexes/zoo")) == (404, "no_such_index")


def test_what_an_index_is_sent_must_go_together(everything: Running, pictures: list[bytes]) -> None:
    client, images, search = everything.client, "/v1/indexes/any/images", "/v1/indexes/any/search"
    client.put("/v1/indexes/any")
    empty = client.post(search, files=parts("image", pictures[:1]))
    assert empty.json()["results"] == []
    both = client.post(search, files=parts("image", pictures[:1]), data={"text": "a dog"})
    assert error(both) == (422, "invalid")
    files = parts("image", pictures[:2])
    for _ in range(2):  # called by their digest, so that adding them again changes nothing
        assert client.post(images, files=files).json()["images"] == 2
    assert error(client.post(images, files=files, data={"id": "one"})) == (422, "invalid")
    client.delete("/v1/indexes/any")


def test_each_file_that_is_added_gets_its_answer(
    everything: Running, pictures: list[bytes]
) -> None:
    client = everything.client
    client.put("/v1/indexes/mixed")
    files = [("image", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    files.insert(4, ("image", ("setup.py", b"import this")))
    added = client.post("/v1/indexes/mixed/images", files=files).json()
    assert added["images"] == len(added["ids"]) == len(pictures)
    assert [each["file"] for each in added["files"]] == [name for _, (name, _) in files]
    assert [each["id"] for each in added["files"] if each["id"]] == added["ids"]
    (wrong,) = [each for each in added["files"] if each["error"]]
    assert wrong["file"] == "setup.py"
    assert wrong["error"].startswith(
        "the image of the file cannot be decoded: it starts with b'import this'"
    )
    client.delete("/v1/indexes/mixed")


def test_damaged_indexes_are_reported(
    tiny_export: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export], indexes=tmp_path) as server:
        server.client.put("/v1/indexes/zoo").raise_for_status()
        server.client.post("/v1/indexes/zoo/images", files=parts("image", pictures[:2]))
        (zoo,) = tmp_path.glob("*.sqlite")
        server.client.put("/v1/indexes/other").raise_for_status()
        (other,) = {*tmp_path.glob("*.sqlite")} - {zoo}
        other.unlink()
        other.write_bytes(b"no database" * 100)
        for _ in range(2):
            assert error(server.client.put("/v1/indexes/other")) == (409, "damaged")
        listed = server.client.get("/v1/indexes").json()["indexes"]
        assert [each["name"] for each in listed] == ["zoo"]
    with sqlite3.connect(zoo) as damaged:
        damaged.execute("UPDATE features SET feat = x'00'")
    damaged.close()
    with running([tiny_export], indexes=tmp_path) as server:
        found = server.client.post("/v1/indexes/zoo/search", files={"text": (None, "a dog")})
        assert error(found) == (503, "damaged")


def test_an_index_outlives_the_server_and_its_model(
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
        wait_until(lambda: client.get("/v1/indexes/kept").json()["usable"])
        sent = parts("image", pictures[:1])
        (feat, *_) = client.post("/v1/embed/images", files=sent).json()["embeddings"]
        feats = client.post("/v1/embed/images", files=parts("image", pictures)).json()["embeddings"]
        hits = client.post("/v1/indexes/kept/search", files=sent).json()["results"]
        right = sorted((np.dot(feat, each) for each in feats), reverse=True)
        assert [hit["similarity"] for hit in hits] == pytest.approx(right, abs=1e-5)
    store = Store(tmp_path)
    square = io.BytesIO()
    Image.new("RGB", (20, 20)).save(square, "PNG")
    entry = Entry("a", "0", np.ones(8, np.float32), b"small", square.getvalue())
    store.create(About("larger", "other/float32", "other", 8)).add("other/float32", [entry])
    store.close()
    with running([tiny_exports["grounding"]], indexes=tmp_path) as server:
        client = server.client
        wait_until(lambda: server.engine.indexes.incompatible)
        assert client.get("/v1/indexes/larger").json()["usable"] is False
        answer = client.post("/v1/indexes/larger/search", files=parts("image", pictures[:1]))
        assert error(answer) == (409, "other_model")
        assert "images for another input size" in answer.json()["error"]["message"]
        assert error(client.put("/v1/indexes/larger")) == (409, "other_model")
        assert client.delete("/v1/indexes/larger").status_code == 204


def test_metrics_tell_how_far_traffic_is_from_validation_data(
    tiny_export: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export]) as server:

        def drift(what: str) -> float:
            return server.metric("albef_drift", run="retrieval", what=what)

        sent = {"files": parts("image", pictures[:1]), "data": {"text": [*CAPTIONS] * 8}}
        for _ in range(4):
            assert server.client.post("/v1/match", **sent).is_success
        near = drift("words")
        assert near < 0.2
        assert drift("confidence") >= 0
        assert np.isnan(drift("width"))
        texts = ["only 7 \u2603 \u2603 \u2603, and more words than any caption has got " * 3] * 32
        for _ in range(4):
            server.client.post("/v1/embed/texts", json={"texts": texts})
        assert drift("words") > 5 * near
        assert drift("unknown") > 0.5
        assert b"squid" not in server.client.get("/metrics").content


def test_tokens_and_pages_of_an_origin_that_is_named(tiny_export: Path) -> None:
    page, token = "https://gallery.example", "a-token-of-a-client"
    asks = {
        "origin": page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    with running([tiny_export], origins=[page], tokens=[token]) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
        assert paths["/v1/model"]["get"]["security"] == [{"token": []}]
        assert "security" not in paths["/healthz"]["get"]
        before = server.client.options("/v1/embed/texts", headers=asks)  # as a browser, no token
        assert before.is_success
        assert before.headers["access-control-allow-origin"] == page
        assert "POST" in before.headers["access-control-allow-methods"]
        assert "authorization" in before.headers["access-control-allow-headers"]
        for sent, status in ((token, 200), ("another", 401)):
            headers = {"origin": page, "authorization": f"Bearer {sent}"}
            answer = server.client.get("/v1/model", headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == page
            assert "retry-after" in answer.headers["access-control-expose-headers"]
        other = server.client.options("/v1/model", headers={**asks, "origin": "https://x.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        two = [("authorization", f"Bearer {each}") for each in ("another", token)]
        assert server.client.get("/v1/model", headers=two).status_code == 401


def test_a_token_is_limited_in_texts_per_second(tiny_export: Path) -> None:
    token = "a-token-of-a-client"
    with running([tiny_export], tokens=[f"{token}:read:/1000/1"]) as server:
        headers = {"authorization": f"Bearer {token}"}
        many = {"model": "retrieval", "input": ["a dog"] * 2000}
        assert server.client.post("/v1/embeddings", json=many, headers=headers).status_code == 429
        more = {"texts": ["a dog"]}
        refused = server.client.post("/v1/embed/texts", json=more, headers=headers)
        assert error(refused) == (429, "rate_limit")
        assert int(refused.headers["retry-after"]) > 1
        assert server.client.get("/v1/model", headers=headers).is_success


def test_refused_requests_and_tokens_have_names_in_metrics(tiny_export: Path) -> None:
    token = "a-token-of-a-client"
    with running([tiny_export], tokens=[f"{token}:read:8:search"]) as server:
        log, headers = server.log, {"authorization": f"Bearer {token}"}
        assert server.client.get("/v1/model", headers=headers).is_success
        assert server.client.put("/v1/indexes/zoo", headers=headers).status_code == 403
        assert server.client.get("/v1/indexes/zoo").status_code == 401
        wait_until(lambda: log.getvalue().count("\n") == 3)
        for method, status in (("PUT", "403"), ("GET", "401")):
            counted = {"method": method, "route": "/v1/indexes/{name}", "status": status}
            assert server.metric("albef_requests_total", **counted) == 1
        for status in ("200", "403"):
            counted = {"token": "search", "status": status}
            assert server.metric("albef_token_requests_total", **counted) == 1
    names = [json.loads(line).get("token") for line in log.getvalue().splitlines()]
    assert sorted(names, key=str) == [None, "search", "search"]
    assert token not in log.getvalue()
