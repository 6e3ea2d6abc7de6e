"""One request against a real server: what comes back, and what is not even asked for."""

import asyncio
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from albef.data.rejection import Reason
from albef.ingest.download.client import Client, Response, opted_out, retry_after
from albef.ingest.download.limits import Limits
from tests.data import toy
from tests.ingest.download.server import PICTURE, Server

LIMITS = Limits(
    user_agent="albef-tests/1 (tests@a.test)", connections=8, per_host=8, connect_s=5, read_s=5,
    total_s=10, attempts=3, backoff_s=0.01, max_wait_s=1, give_up_after=0, redirects=3, max_mb=1,
    allow_loopback=True,
)  # fmt: skip


def limits(**changed: Any) -> Limits:
    return LIMITS.model_copy(update=changed)


def fetch(address: str, **changed: Any) -> Response:
    async def once() -> Response:
        client = Client(limits(**changed))
        try:
            return await client.fetch(address)
        finally:
            await client.close()

    return asyncio.run(once())


def failure(address: str, **changed: Any) -> Response:
    answer = fetch(address, **changed)
    assert answer.reason, answer
    assert not answer.body
    return answer


def test_an_image_and_who_asks_for_it(server: Server) -> None:
    assert fetch(server.url("ok/3")) == Response(None, body=toy.picture(3))
    assert server.headers["User-Agent"] == "albef-tests/1 (tests@a.test)"
    assert server.headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Referer", "Authorization"} & set(server.headers)
    assert fetch(server.url("tdm/0")) == Response(None, body=PICTURE)
    assert fetch(server.url("large"), max_mb=3).body


FAILURES = {
    "status/404": (Reason.NOT_FOUND, "status 404 Not Found"),
    "status/410": (Reason.NOT_FOUND, "status 410 Gone"),
    "status/403": (Reason.HTTP_ERROR, "status 403 Forbidden"),
    "status/799": (Reason.HTTP_ERROR, "status 799"),
    "status/304": (Reason.HTTP_ERROR, "status 304 Not Modified"),
    "kind/text/html": (Reason.NO_IMAGE, "the server sent text/html"),
    "packed": (Reason.HTTP_ERROR, "the server compressed the response"),
    "large": (Reason.TOO_MANY_BYTES, "the image has more than 1 MiB"),
    "endless": (Reason.TOO_MANY_BYTES, "the image has more than 1 MiB"),
    "loop": (Reason.HTTP_ERROR, "more than 3 redirects"),
    "nowhere": (Reason.HTTP_ERROR, "the redirect has no Location"),
    "to/ftp://a.test/x": (Reason.BAD_URL, "the URL is not http or https"),
    "to/http://[": (Reason.BAD_URL, "the redirect leads to an invalid URL"),
    "to/http://a..b/": (Reason.BAD_URL, "the URL cannot be requested (Unicode"),
    "to/http://169.254.169.254/latest": (Reason.PRIVATE_ADDRESS, "the host's IP address is not"),
    "rubbish": (Reason.HTTP_ERROR, "the response is not valid HTTP"),
    "robots/noai": (Reason.OPTED_OUT, "the server sent X-Robots-Tag: noai"),
    "tdm/1": (Reason.OPTED_OUT, "the server sent tdm-reservation: 1"),
    "status/500": (Reason.HTTP_ERROR, "status 500 Internal Server Error"),
    "status/429": (Reason.HTTP_ERROR, "status 429 Too Many Requests"),
    "status/408": (Reason.HTTP_ERROR, "status 408 Request Timeout"),
    "cut/9": (Reason.UNREACHABLE, "the connection was lost"),
    "close": (Reason.UNREACHABLE, "the connection was closed without"),
}
TEMPORARY = ("status/799", "status/500", "status/429", "status/408", "cut/9", "close")


def test_what_fails_and_whether_it_may_pass(server: Server) -> None:
    for path, (reason, detail) in FAILURES.items():
        found = failure(server.url(path))
        assert (found.reason, found.is_temporary) == (reason, path in TEMPORARY), path
        assert found.detail.startswith(detail), path
    found = failure("http://127.0.0.1:9/x")  # where nobody listens
    assert (found.reason, found.is_temporary, found.responded) == (Reason.UNREACHABLE, True, False)


@pytest.mark.parametrize(
    ("path", "changed"), [("silent", {"read_s": 0.2}), ("drip", {"total_s": 0.5, "read_s": 5})]
)
def test_deadlines(server: Server, path: str, changed: dict[str, float]) -> None:
    found = failure(server.url(path), **changed)
    assert (found.reason, found.is_temporary) == (Reason.TIMED_OUT, True)


def test_redirects_are_followed(server: Server) -> None:
    assert fetch(server.url(f"to/{server.url('ok/7')}")) == Response(None, body=PICTURE)
    assert fetch(server.url("to//ok/7")) == Response(None, body=PICTURE)
    assert failure(server.url("to//robots/noai")).reason == Reason.OPTED_OUT


def test_this_machine_is_refused_unless_it_is_allowed(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1"):
        found = failure(f"http://{host}:{server.port}/ok/1", allow_loopback=False)
        assert (found.reason, found.is_temporary) == (Reason.PRIVATE_ADDRESS, False), host
        assert "allow_loopback: true" in found.detail
    for host in ("127.1", "2130706433"):
        found = failure(f"http://{host}:{server.port}/ok/1", allow_loopback=False)
        assert (found.reason, found.is_temporary) == (Reason.BAD_URL, False), host
    assert not server.asked
    assert fetch(f"http://localhost:{server.port}/ok/1") == Response(None, body=toy.picture(1))


def test_invalid_addresses() -> None:
    for address in (
        "", "a.jpg", "ftp://a.test/x", "file:///etc/passwd", "http://", "http:///x", "data:a/b;,",
        "http://a:b@a.test/", "http://[::1", "http://a.test:99999/", "javascript:1",
        "http://a.test/" + "x" * 9000, "http://\ud800/", "http://a..b/",
        f"http://{'a' * 64}.test/",
    ):  # fmt: skip
        assert failure(address).reason == Reason.BAD_URL, address


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_which_opt_outs_are_respected() -> None:
    for lines, said in (
        (["noai"], "noai"), (["nofollow, NoImageAI"], "noimageai"), (["all"], ""),
        (["none", "noindex"], "noindex"), (["nofollow"], ""), (["googlebot: noindex"], ""),
        (["albef-tests: noimageindex"], "noimageindex"), (["*: noai"], "noai"),
        (["googlebot: nofollow, noai"], ""), (["max-snippet: 3, noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], "noindex"), ([""], ""),
    ):  # fmt: skip
        held = headers(*(("X-Robots-Tag", line) for line in lines))
        assert opted_out(held, "albef-tests/1 (x)") == (f"X-Robots-Tag: {said}" if said else "")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(headers(("Retry-After", "120"))) == 120
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    later = "Wed, 21 Oct 2015 07:30:00 GMT"
    assert retry_after(headers(("Retry-After", later), ("Date", date))) == 120
    assert retry_after(headers(("Retry-After", date), ("Date", later))) == 0
    for odd in ("", "soon", "-3", "9" * 400, "Wed, 99 Oct 2015"):
        assert retry_after(headers(("Retry-After", odd), ("Date", date))) is None
