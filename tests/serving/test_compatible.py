"""Clients of other servers, the real ones, against a running server."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from openai import UnprocessableEntityError as REFUSED

from albef.runtime.matching import Matching
from albef.serving.limits import Limits
from tests.conftest import CAPTIONS
from tests.serving.running import PATIENCE, Running, error, running, uri, wait_until


@pytest.fixture(scope="module")
def client(everything: Running) -> Iterator[OpenAI]:
    with openai(everything) as made:
        yield made


def openai(server: Running, key: str = "none") -> OpenAI:
    url = f"http://127.0.0.1:{server.port}/v1"
    return OpenAI(base_url=url, api_key=key, timeout=PATIENCE, max_retries=0)


def test_openai_embeds_texts_and_images_in_their_order(
    client: OpenAI, model: Matching, pictures: list[bytes]
) -> None:
    given = [CAPTIONS[0], uri(pictures[0]), CAPTIONS[1], uri(pictures[1])]
    answer = client.embeddings.create(model="retrieval", input=given)  # as base64, if not told
    texts, images = model.embed_text(CAPTIONS[:2]), model.embed_image(pictures[:2])
    found = [each.embedding for each in answer.data]
    np.testing.assert_allclose(found, [texts[0], images[0], texts[1], images[1]], atol=1e-5)
    assert [each.index for each in answer.data] == [0, 1, 2, 3]
    assert answer.model == f"retrieval@{model.digest[:12]}"
    tokens = sum(len(model.ids([text])[0][0]) for text in CAPTIONS[:2])
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    written = client.embeddings.create(
        model=answer.model, input=CAPTIONS[0], encoding_format="float", dimensions=8
    )
    assert written.data[0].embedding == pytest.approx(found[0], abs=1e-6)
    named = client.embeddings.create(model="grounding", input=CAPTIONS[0])
    assert named.model.startswith("grounding@")


def test_vectors_come_in_the_type_and_format_that_is_requested(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    feats = model.embed_text(CAPTIONS[:2])
    for dtype in ("int8", "ubinary"):
        body = {"model": "retrieval", "input": CAPTIONS[:2], "embedding_types": dtype}
        answer = everything.client.post("/v1/embeddings", json=body).json()
        found = np.array([each["embedding"] for each in answer["data"]])
        if dtype == "int8":
            assert np.abs(found).max(axis=1).tolist() == [127, 127]
            scaled = found / np.linalg.norm(found, axis=1, keepdims=True)
            np.testing.assert_allclose(scaled, feats, atol=0.01)
        else:
            assert np.array_equal(np.unpackbits(found.astype(np.uint8), axis=1), feats > 0)
        options = {"embedding_types": dtype, "encoding_format": "base64"}
        sent = everything.client.post("/v1/embed/texts", json={"texts": CAPTIONS[:2], **options})
        kind = np.dtype(dtype.replace("ubinary", "uint8"))
        decoded = [np.frombuffer(base64.b64decode(v), kind) for v in sent.json()["embeddings"]]
        assert np.array_equal(decoded, found)
    both = {"texts": CAPTIONS[:2], "embedding_types": ["float", "ubinary"]}  # as Cohere's clients
    answer = everything.client.post("/v1/embed/texts", json=both).json()["embeddings"]
    np.testing.assert_allclose(answer["float"], feats, atol=1e-5)
    assert np.array_equal(answer["ubinary"], np.packbits(feats > 0, 1))
    assert all(type(number) is int for number in answer["ubinary"][0])
    files = [("image", picture) for picture in pictures[:2]]
    sent = everything.client.post("/v1/embed/images", files=files, data=options)
    bits = [base64.b64decode(vector) for vector in sent.json()["embeddings"]]
    assert bits == [row.tobytes() for row in np.packbits(model.embed_image(pictures[:2]) > 0, 1)]


def test_more_inputs_than_the_queue_holds_are_embedded(tiny_export: Path, model: Matching) -> None:
    texts = [CAPTIONS[i % 4] for i in range(70)]
    with running([tiny_export], Limits(queue=32)) as server, openai(server) as client:
        answer = client.embeddings.create(model="retrieval", input=texts)
        counted = {"route": "/v1/embeddings", "method": "POST", "status": "200"}
        wait_until(lambda: server.metric("albef_requests_total", **counted) == 1)
    found = [each.embedding for each in answer.data]
    np.testing.assert_allclose(found, model.embed_text(texts), atol=1e-5)


def test_openai_lists_the_models(client: OpenAI) -> None:
    runs = [each.id for each in client.models.list()]
    assert runs == ["retrieval", "vqa", "entailment", "nlvr2", "grounding"]
    assert client.models.retrieve("vqa").id == "vqa"
    with pytest.raises(NotFoundError, match="this server has retrieval, vqa"):
        client.models.retrieve("gpt")


def test_openai_says_what_is_wrong(client: OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], type[APIStatusError], str]] = [
        ({"model": "gpt"}, NotFoundError, "this server has retrieval, vqa"),
        ({"model": "vqa"}, REFUSED, "retrieval|vqa is of kind vqa"),
        ({"dimensions": 4}, REFUSED, "dimensions must be 8"),
        ({"input": ["a", " "]}, REFUSED, r"input\.1: must not be blank"),
        ({"input": ["a", "\u200b\u0001"]}, REFUSED, r"input\.1: must not be blank after cleaning"),
        ({"input": ["data:image/png;base64,%"]}, REFUSED, r"input\.0: send an image as"),
        ({"input": [1, 2]}, REFUSED, r"input\.0: Input should be a valid string"),
        ({"extra_body": {"task": "x"}}, REFUSED, "task: unknown field"),
    ]
    for sent, kind, said in wrong:
        with pytest.raises(kind, match=said) as caught:
            client.embeddings.create(**{"model": "retrieval", "input": "a", **sent})
        detail = caught.value.body
        assert isinstance(detail, dict)
        assert set(detail) == {"code", "message", "type", "param"}
        assert detail["type"] == "invalid_request_error"
        assert caught.value.code == detail["code"]


def test_images_and_texts_are_ranked_by_matching(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    sent = {"query": CAPTIONS[1], "documents": [{"image": uri(each)} for each in pictures]}
    answer = everything.client.post("/v1/rerank", json={**sent, "model": "retrieval"}).json()
    right = model.match(pictures, [CAPTIONS[1]] * 6)
    assert [each["index"] for each in answer["results"]] == np.argsort(-right).tolist()
    scores = [each["relevance_score"] for each in answer["results"]]
    np.testing.assert_allclose(scores, np.sort(right)[::-1], atol=1e-5)
    assert answer["usage"]["total_tokens"] > 0
    texts = [*CAPTIONS, {"text": "squid"}]
    sent = {"query": uri(pictures[0]), "documents": texts, "top_n": 2, "return_documents": True}
    answer = everything.client.post("/v2/rerank", json=sent).json()
    right = model.match([pictures[0]] * 5, [*CAPTIONS, "squid"])
    assert [each["index"] for each in answer["results"]] == np.argsort(-right)[:2].tolist()
    for each in answer["results"]:
        assert each["document"]["text"] == [*CAPTIONS, "squid"][each["index"]]


def test_fields_that_other_clients_always_send_are_accepted(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    sent: dict[str, Any] = {"input": CAPTIONS[0], "model": "default/not-specified"}
    sent |= {"dimensions": 0, "modality": "text"}  # as infinity_client does
    answer = everything.client.post("/v1/embeddings", json=sent).json()
    assert answer["data"][0]["embedding"] == pytest.approx(
        model.embed_text([CAPTIONS[0]])[0].tolist(), abs=1e-5
    )
    query = {"query": uri(pictures[0]), "documents": CAPTIONS[:3]}
    probabilities = model.match([pictures[0]] * 3, CAPTIONS[:3])
    for extra, scores in (
        ({"model": "default/not-specified", "raw_scores": False}, probabilities),
        ({"raw_scores": True}, np.log(probabilities / (1 - probabilities))),
        ({"max_tokens_per_doc": 4096, "priority": 0}, probabilities),  # Cohere's
        ({"truncation": True}, probabilities),  # Jina's
    ):
        answer = everything.client.post("/v1/rerank", json=query | extra).json()
        found = {each["index"]: each["relevance_score"] for each in answer["results"]}
        assert [found[i] for i in range(3)] == pytest.approx(scores.tolist(), abs=1e-4)


def test_what_matching_cannot_rank_is_refused(everything: Running, pictures: list[bytes]) -> None:
    for query, documents in (("a dog", ["a cat"]), (uri(pictures[0]), [uri(pictures[1])])):
        sent = {"query": query, "documents": documents}
        answer = everything.client.post("/v1/rerank", json=sent)
        assert error(answer) == (422, "invalid")
        assert "compare embeddings" in answer.json()["error"]["message"]
    sent = {"query": "a", "documents": [{"image": "http://127.0.0.1/a.png"}]}
    assert error(everything.client.post("/v1/rerank", json=sent)) == (422, "invalid")
