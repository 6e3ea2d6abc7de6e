"""What is computed in batches with what others ask."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from albef.release.gate import ReleaseConfig
from albef.serving.limits import Limits
from tests.conftest import CAPTIONS
from tests.serving.running import parts, running, wait_until


def test_clients_at_once_get_what_each_gets_alone(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    texts = [*CAPTIONS, "a dog", "only two tractors at the top of an apple"]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/embed/texts", {"json": {"texts": [text]}}) for text in texts
    ]
    for picture, text in zip(pictures, texts, strict=True):
        for path, field in (("match", "text"), ("ask", "question"), ("entail", "statement")):
            form = {"data": {field: text}, "files": parts("image", [picture])}
            calls.append((f"/v1/{path}", form))
    exports = [tiny_exports[kind] for kind in ("retrieval", "vqa", "entailment")]
    clients, texts_of = 8, {"run": "retrieval", "step": "texts"}
    with running(exports, Limits(stragglers=1), precision="int8") as server:

        def ask(client: httpx.Client, number: int) -> list[float]:
            path, form = calls[number % len(calls)]
            response = client.post(path, **form)
            assert response.status_code == 200, response.text
            return [*_numbers(response.json())]

        alone = [ask(server.client, number) for number in range(len(calls))]
        go = threading.Event()
        server.engine.models[0].threads.submit(go.wait)

        def many(first: int) -> list[list[float]]:
            with httpx.Client(base_url=server.client.base_url, timeout=120) as client:
                return [ask(client, first * 3 + i) for i in range(len(calls))]

        with ThreadPoolExecutor(clients) as pool:
            answers = pool.map(many, range(clients))
            wait_until(lambda: server.metric("albef_waiting_items", **texts_of) == clients - 1)
            go.set()
            for first, found in enumerate(answers):
                for i, row in enumerate(found):
                    expected = alone[(first * 3 + i) % len(calls)]
                    bound = ReleaseConfig.model_fields["max_batch_effect"].default
                    np.testing.assert_allclose(row, expected, rtol=0, atol=bound)
        items, batches = (
            server.metric(f"albef_batch_items_{part}", **texts_of) for part in ("sum", "count")
        )
        assert items > batches, "some were computed together"


def _numbers(answer: Any) -> Any:
    if isinstance(answer, dict):
        answer = [answer[name] for name in sorted(answer)]
    if isinstance(answer, list):
        for each in answer:
            yield from _numbers(each)
    elif isinstance(answer, float):
        yield answer
