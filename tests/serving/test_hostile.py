"""What is sent by those who mean no good: the right refusal, in bounded memory."""

import json
import resource

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from albef.data.rejection import Reason
from tests.ingest.bad_rows import BadRow, bad_rows, encoded, gradient, png_header
from tests.serving.running import Running, error, parts, wait_until

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FORM = "multipart/form-data; boundary=x"
FIELD = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


def refusal(row: BadRow) -> int:
    """Of the refusal of a picture; BMP is no format of the server, whatever its size."""
    is_large = row.expected == Reason.TOO_MANY_PIXELS and not row.image.startswith(b"BM")
    return 413 if is_large else 422


REASONS = (Reason.NO_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS)
HOSTILE = {
    **{row.name: (row.image, refusal(row)) for row in bad_rows() if row.expected in REASONS},
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", 422),
    "TIFF, which is slow to decode": (encoded(gradient(), "TIFF"), 422),
    "BMP, which is slow to decode": (encoded(gradient(), "BMP"), 422),
    "a long line": (png_header(16_000_000, 1), 413),
    "within bounds but empty": (png_header(4_000, 4_000), 422),
}


def test_hostile_images(retrieval: Running, pictures: list[bytes]) -> None:
    for name, (picture, status) in HOSTILE.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        files = parts("image", [pictures[0], picture])
        answer = retrieval.client.post("/v1/embed/images", files=files)
        assert error(answer)[0] == status, name
        assert "file 1" in answer.json()["error"]["message"], name
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, name


def test_hostile_json(retrieval: Running) -> None:
    for content, status in (
        (b"{", 400),
        (b"", 422),
        (b"null", 422),
        (b'{"texts": ' + b"[" * 100_000, 400),
        (b'{"texts": [NaN]}', 422),
        (b'{"texts": [' + b"9" * 10_000 + b"]}", 400),
        (b'{"texts": ["\\ud800"]}', 422),
        (b'{"texts": ["a"], "\\ud800": 1}', 422),
        (b'{"texts": ["\xff"]}', 400),
        (json.dumps({f"{i}": i for i in range(101)}).encode(), 422),
        (json.dumps({"texts": ["word " * 20_000]}).encode(), 422),
        (json.dumps({"texts": ["a"] * 33}).encode(), 422),
        (json.dumps({"texts": []}).encode(), 422),
        (json.dumps({"texts": [" \n"]}).encode(), 422),
        (json.dumps({"texts": ["word " * 3_000_000]}).encode(), 413),
    ):
        headers = {"content-type": "application/json"}
        answer = retrieval.client.post("/v1/embed/texts", content=content, headers=headers)
        assert error(answer)[0] == status, content[:80]
    for kind in ({"content-type": "text/plain"}, {}):
        answer = retrieval.client.post("/v1/embed/texts", content=b'{"texts": []}', headers=kind)
        assert error(answer)[0] == 415
        assert "application/json" in answer.json()["error"]["message"]


def test_hostile_forms(retrieval: Running) -> None:
    for content, kind, status in (
        (b"", "multipart/form-data", 400),
        (b"", FORM, 422),
        (b"--x\r\n", FORM, 422),
        (b"no boundary", FORM, 400),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", FORM, 400),
        (FIELD % (b"image", b"text") + b"--x--\r\n", FORM, 422),
        (FIELD % (b"text", b"a") * 2000 + b"--x--\r\n", FORM, 400),
        (FIELD % (b"text", b"a" * 2_000_000) + b"--x--\r\n", FORM, 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
    ):
        headers = {"content-type": kind}
        answer = retrieval.client.post("/v1/match", content=content, headers=headers)
        assert error(answer)[0] == status, content[:80]


def test_a_field_that_a_call_does_not_have_is_named(
    retrieval: Running, pictures: list[bytes]
) -> None:
    files = parts("image", pictures[:1])
    answer = retrieval.client.post("/v1/embed/images", files=files, data={"texts": "a"})
    assert answer.json()["error"]["message"] == "texts: unknown field"
    answer = retrieval.client.post("/v1/embed/texts", json={"texts": ["a"], "more": 1})
    assert answer.json()["error"]["param"] == "more"


def test_hostile_names_and_methods(everything: Running) -> None:
    for name in ("..", "../../etc", "%2e%2e%2f", "A", "a b", "a" * 65, "a/b", "ä", "%00", "a;b"):
        for method, path in (("PUT", name), ("GET", f"zoo/images/{name}")):
            answer = everything.client.request(method, f"/v1/indexes/{path}")
            assert error(answer)[0] in (404, 405, 422), name
    for path in ("/v1/match", "/v1/indexes/zoo", "/v1/indexes/zoo/images/a", "/", "/openapi.json"):
        for method in ("PATCH", "TRACE"):
            answer = everything.client.request(method, path)
            assert error(answer) == (405, "method_not_allowed")
            assert answer.headers["allow"]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_everything_that_openapi_allows_or_not_is_answered_as_it_says(
    everything: Running, mode: schemathesis.GenerationMode
) -> None:
    base = f"http://127.0.0.1:{everything.port}"
    statuses: set[int] = set()
    for result in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations():
        operation = result.ok()
        if mode is schemathesis.GenerationMode.NEGATIVE and not (
            operation.body or operation.path_parameters
        ):
            continue  # nothing in it could be wrong

        @settings(
            max_examples=5,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(mode))
        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=base)
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        check()
    for index in everything.client.get("/v1/indexes").json()["indexes"]:
        everything.client.delete(f"/v1/indexes/{index['name']}")
    assert (200 if mode is schemathesis.GenerationMode.POSITIVE else 422) in statuses


def test_the_server_is_well_after_all_that(retrieval: Running, pictures: list[bytes]) -> None:
    answer = retrieval.client.post("/v1/embed/images", files=parts("image", pictures))
    assert answer.is_success
    wait_until(lambda: retrieval.metric("albef_held_bytes") == 0)
