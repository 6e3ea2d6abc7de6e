"""KServe's protocol: the bodies of its specification, and Triton's own client (slow)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albef.runtime.matching import Matching
from tests.conftest import CAPTIONS
from tests.serving.running import Running, uri


def tensor(name: str, data: list[str]) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}


def infer(server: Running, name: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"inputs": list(inputs), **more}
    answer = server.client.post(f"/v2/models/{name}/infer", json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def test_probes_and_metadata(everything: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/match/ready", "/v2"):
        assert everything.client.get(path).status_code == 200
    meta = everything.client.get("/v2/models/embed_text").json()
    assert meta["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert meta["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 8]}]
    assert meta["versions"] == [everything.engine.calls["embed_text"].name]
    unknown = everything.client.get("/v2/models/matsch")
    assert unknown.status_code == 404
    assert unknown.json()["error"].startswith("unknown model; this server has ask, compare, ")


def test_answers_equal_those_of_the_own_calls(
    everything: Running, model: Matching, pictures: list[bytes]
) -> None:
    texts, images = CAPTIONS[:2], pictures[:2]
    text, image = tensor("text", texts), tensor("image", [uri(each) for each in images])
    one = tensor("image", [uri(images[0])])
    for call, inputs, expected in (
        ("embed_text", [text], model.embed_text(texts)),
        ("embed_image", [image], model.embed_image(images)),
        ("match", [text, one], model.match(images[:1] * 2, texts)),
    ):
        answer = infer(everything, call, *inputs, id="7")
        (output,) = answer["outputs"]
        assert (answer["id"], output["datatype"]) == ("7", "FP32")
        assert output["shape"] == [*expected.shape]
        np.testing.assert_allclose(output["data"], expected.ravel(), atol=1e-5)


@pytest.mark.parametrize("call", ["ask", "entail", "compare"])
def test_the_best_answer_and_its_probability_are_returned(
    everything: Running, pictures: list[bytes], call: str
) -> None:
    count = 2 if call == "compare" else 1
    images = tensor("image", [uri(each) for each in pictures[:count]])
    wanted = [{"name": "probability"}, {"name": "label"}]
    answer = infer(everything, call, images, tensor("text", CAPTIONS[:3]), outputs=wanted)
    probability, label = answer["outputs"]
    assert (probability["name"], label["name"]) == ("probability", "label")
    assert probability["shape"] == label["shape"] == [3]
    assert all(0 < each <= 1 for each in probability["data"])
    assert all(isinstance(each, str) and each for each in label["data"])


def test_what_does_not_fit_is_refused(everything: Running, pictures: list[bytes]) -> None:
    text, image = tensor("text", CAPTIONS[:2]), tensor("image", [uri(pictures[0])])
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("embed_text", {"inputs": [image]}),
        ("embed_text", {"inputs": [text, text]}),
        ("embed_text", {"inputs": [{**text, "shape": [3]}]}),
        ("embed_text", {"inputs": [{**text, "datatype": "FP32"}]}),
        ("embed_text", {"inputs": [text], "outputs": [{"name": "vector"}]}),
        ("embed_image", {"inputs": [tensor("image", ["a text"])]}),
        ("match", {"inputs": [text, tensor("image", [uri(pictures[0])] * 3)]}),
        ("compare", {"inputs": [text, image]}),
    ]
    for name, body in wrong:
        answer = everything.client.post(f"/v2/models/{name}/infer", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["error"].startswith(
            ("inputs", "outputs", "got 3 images and 2 texts")
        ), body


CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("embed_text")
text = http.InferInput("text", [2], "BYTES")
text.set_data_from_numpy(np.array(["a dog", "two cats"], object), binary_data=False)
output = http.InferRequestedOutput("embedding", binary_data=False)
result = client.infer("embed_text", [text], outputs=[output])
print(json.dumps(result.as_numpy("embedding").tolist()))
"""


@pytest.mark.slow
def test_tritons_own_client_is_answered(
    everything: Running, model: Matching, triton_client: Path
) -> None:
    done = subprocess.run(
        [triton_client, "-c", CLIENT, f"127.0.0.1:{everything.port}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = model.embed_text(["a dog", "two cats"])
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)
