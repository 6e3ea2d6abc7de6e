"""Each middleware alone, before a little application and a client that is made of messages."""

import asyncio
import io
import json
from typing import Any, NamedTuple

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware import exchange
from albef.serving.middleware.access import Hosts, Tokens, parse_token
from albef.serving.middleware.admission import Admission
from albef.serving.middleware.exchange import Client, ClientGoneError, Exchange, State
from albef.serving.middleware.requests import Requests

TOKEN, OTHER = "first-token-of-many", "second-token-of-many"
FORM = {"content-type": "multipart/form-data; boundary=x"}
SMALL = Limits(body=200, json=20, all_bodies=300, body_seconds=0.01)
HELD = Limits(body=200, all_bodies=600, requests=4, clients=2)
OPEN = frozenset({"/", "/healthz"})
MINE, OTHERS = ({"authorization": f"Bearer {token}"} for token in (TOKEN, OTHER))


async def stop(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes that it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{size}".encode()})


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    app: ASGIApp,
    *body: bytes,
    path: str = "/v1/model",
    headers: dict[str, str] | None = None,
    method: str = "POST",
    client: str | None = "127.0.0.1",
    mounted: str = "",
    whole: bool = True,
    leaves: bool = False,
) -> Answer:
    """One request in parts, to which more would come unless it is ``whole``."""
    parts = body or (b"",)
    to_come: list[Message] = [
        {"type": "http.request", "body": part, "more_body": not whole or i < len(parts)}
        for i, part in enumerate(parts, start=1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        if not to_come and not leaves:
            await asyncio.Event().wait()
        return to_come.pop(0) if to_come else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope: Scope = {"type": "http", "method": method, "path": mounted + path, "root_path": mounted}
    address = client or ""
    before = Exchange("mine", dict(headers or {}), address, Client(address))
    scope |= {"headers": raw, "client": client and (client, 1), "albef": before}
    await app(scope, receive, send)
    names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], names, b"".join(part.get("body", b"") for part in sent[1:]))


def status(app: ASGIApp, *body: bytes, **how: Any) -> int:
    """The status of an answer, or with which a middleware refuses."""
    try:
        return asyncio.run(ask(app, *body, **how)).status
    except ApiError as error:
        return error.status


def test_large_bodies_are_refused_whether_they_say_so_or_not() -> None:
    json_length = {"content-type": "application/json", "content-length": "21"}
    for body, headers in (
        ([b"x" * 100, b"x" * 101], FORM),
        ([b""], FORM | {"content-length": "201"}),
        ([b""], FORM | {"content-length": "9" * 100}),
        ([b"x" * 21], {"content-type": "application/json; charset=utf-8"}),
        ([b"x" * 21], {"content-type": ""}),  # what is no form is parsed as a whole
        ([b""], json_length),
    ):
        metrics = Metrics()
        assert status(Admission(never, SMALL, metrics), *body, headers=headers) == 413
        assert metrics.registry.get_sample_value("albef_held_bytes") == 0


def test_a_slow_body_is_not_waited_for() -> None:
    assert status(Admission(never, SMALL, Metrics()), b"x", whole=False) == 408


def test_bodies_are_read_whole_and_bounded_at_once() -> None:
    metrics = Metrics()
    bodies = Admission(never, SMALL, metrics)

    async def one_after_the_other() -> None:
        announced = FORM | {"content-length": "200"}
        first = asyncio.create_task(ask(bodies, b"x", whole=False, headers=announced))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="too many bodies") as problem:
            await ask(bodies, b"x" * 101, headers=FORM)
        assert problem.value.status == 503
        await stop([first])
        bodies.app = count
        assert (await ask(bodies, b"x" * 100, b"x" * 100, headers=FORM)).body == b"200"
        assert metrics.registry.get_sample_value("albef_held_bytes") == 0

    asyncio.run(one_after_the_other())


def test_a_client_that_waits_too_long_or_leaves_has_its_work_given_up() -> None:
    given_up = 0

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal given_up
        try:
            await never(scope, receive, send)
        except asyncio.CancelledError:
            given_up += 1
            raise

    assert status(Admission(work, Limits(seconds=0.01), Metrics())) == 504
    for whole in (True, False):
        with pytest.raises(ClientGoneError):
            asyncio.run(ask(Admission(work, Limits(), Metrics()), whole=whole, leaves=True))
    assert given_up == 2, "one was gone before its work began"


def test_a_token_has_limits_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(exchange.time, "monotonic", lambda: now)
    tokens = Tokens(Admission(count, Limits(), Metrics()), [f"{TOKEN}::/2/100", OTHER])
    for _ in range(2):
        assert status(tokens, headers=MINE) == 200
    assert status(tokens, headers=MINE) == 429
    assert status(tokens, headers=OTHERS) == 200
    now = 0.5
    assert status(tokens, headers=MINE) == 200


@pytest.mark.parametrize("length", [{"content-length": "200"}, {}])
def test_bodies_of_one_client_leave_room_for_another(length: dict[str, str]) -> None:
    tokens = Tokens(Admission(count, HELD, Metrics()), [TOKEN, OTHER])

    async def all_but_the_last_byte() -> None:
        slow = [
            asyncio.create_task(ask(tokens, b"x" * 199, whole=False, headers=MINE | FORM | length))
            for _ in range(8)
        ]
        await asyncio.sleep(0.01)
        problems = [each.exception() for each in slow if each.done()]
        assert len(slow) - len(problems) == 1, "300 bytes of 600 hold one body of 200"
        assert {error.status for error in problems if isinstance(error, ApiError)} == {429}
        assert (await ask(tokens, b"x" * 200, headers=OTHERS | FORM)).body == b"200"
        await stop(slow)
        assert (await ask(tokens, b"x" * 200, headers=MINE | FORM)).body == b"200"

    asyncio.run(all_but_the_last_byte())


@pytest.mark.parametrize(("limits", "token", "most"), [(Limits(), ":read:1", 1), (HELD, "", 2)])
def test_a_client_takes_its_slots_before_its_bodies_are_read(
    limits: Limits, token: str, most: int
) -> None:
    tokens = Tokens(Admission(count, limits, Metrics()), [TOKEN + token, OTHER])

    async def slow_and_quick() -> None:
        slow = [asyncio.create_task(ask(tokens, whole=False, headers=MINE)) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match=f"allows {most} requests") as problem:
            await ask(tokens, headers=MINE)
        assert problem.value.status == 429
        assert (await ask(tokens, b"xy", headers=OTHERS)).body == b"2"
        await stop(slow)
        assert (await ask(tokens, headers=MINE)).status == 200

    asyncio.run(slow_and_quick())


def test_a_refused_body_without_a_small_end_closes_the_connection() -> None:
    app = Requests(Admission(never, HELD, Metrics()), Metrics(), State())
    endless = {"transfer-encoding": "chunked"}
    for headers, closes in (
        (FORM | {"content-length": "201"}, False),  # the client sends it and reads the refusal
        (FORM | {"content-length": "9" * 9}, True),
        (FORM | endless, True),
        (FORM | endless | {"content-length": "1"}, True),
    ):
        answer = asyncio.run(ask(app, b"x" * 201, headers=headers))
        assert answer.status == (400 if {*endless, "content-length"} <= {*headers} else 413)
        assert (answer.headers.get("connection") == "close") is closes, headers


def test_a_token_allows_what_its_scopes_say() -> None:
    tokens = Tokens(count, [f"{TOKEN}:read", f"{OTHER}:write+metrics"])
    for method, path, scope in (
        ("POST", "/v1/match", "read"),
        ("POST", "/v1/indexes/zoo/search", "read"),
        ("GET", "/v1/indexes/zoo/images/a", "read"),
        ("PUT", "/v1/indexes/zoo", "write"),
        ("POST", "/v1/indexes/zoo/images", "write"),
        ("DELETE", "/v1/indexes/zoo/images/a", "write"),
        ("GET", "/metrics", "metrics"),
    ):
        for token, allowed in ((TOKEN, ("read",)), (OTHER, ("write", "metrics"))):
            headers = {"authorization": f"Bearer {token}"}
            found = status(tokens, method=method, path=path, headers=headers)
            assert found == (200 if scope in allowed else 403)
    limits = ("many", "0", "-1", "1:a b", "1:a:b", "1/0")
    for wrong in ("short", f"{TOKEN}:all", *(f"{TOKEN}:read:{limit}" for limit in limits)):
        with pytest.raises(ValueError, match="ALBEF_TOKENS: token 3 must have") as problem:
            parse_token(wrong, 3)
        assert TOKEN not in f"{problem.value}"
    assert parse_token(f"{TOKEN}::8:search", 1).name == "search"


def test_a_token_is_needed_where_tokens_are_known() -> None:
    tokens = Tokens(count, [TOKEN, OTHER], exempt=OPEN)
    for mounted in ("", "/models", "/models/"):  # as `mount` does
        for sent in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xe4"):
            for path in ("/v1/model", "/metrics", "/nothing"):
                headers = {"authorization": sent}
                assert status(tokens, path=path, mounted=mounted, headers=headers) == 401
    for path in OPEN:
        assert status(tokens, path=path) == 200
        assert status(tokens, path=path, mounted="/models") == 200
    for token in (TOKEN, OTHER):  # under any name
        headers = {"authorization": f"bearer {token}", "host": "models"}
        assert status(tokens, headers=headers) == 200
    refusal = asyncio.run(ask(Requests(tokens, Metrics(), State())))
    assert refusal.headers["www-authenticate"] == "Bearer"


def test_without_tokens_this_machine_alone_may_ask_and_no_other_site() -> None:
    hosts = Hosts(count, ["models"], exempt=OPEN)
    for host in ("evil.example", "", "["):
        assert status(hosts, headers={"host": host}) == 421
    for origin in ("http://evil.example", "null", "http://[", "http://localhost:3000"):
        assert status(hosts, headers={"host": "localhost", "origin": origin}) == 403
    proxied = {"host": "models", "origin": "https://models:8443"}
    assert status(hosts, headers=proxied) == 200
    with pytest.raises(ClientGoneError):  # the connection was closed before its address was read
        asyncio.run(ask(hosts, headers={"host": "localhost"}, client=None))
    for host in ("localhost:8080", "127.0.0.1", "[::1]:80", "MODELS"):
        headers = {"host": host, "origin": f"http://{host}"}
        for client in ("127.0.0.1", "::1"):
            assert status(hosts, headers=headers, client=client) == 200
        for client in ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "a.sock", ""):
            assert status(hosts, path="/healthz", client=client) == 200
            others = 200 if host == "MODELS" else 421  # as behind a proxy
            assert status(hosts, headers=headers, client=client) == others


def test_failures_have_the_same_shape_and_no_details(caplog: pytest.LogCaptureFixture) -> None:
    for error, status, said in (
        (RuntimeError("a secret"), 500, "internal error; the log has details under request mine"),
        (MemoryError(), 503, "the server is short of memory; retry after 5 s"),
    ):

        async def fail(scope: Scope, receive: Receive, send: Send, error: Any = error) -> None:
            raise error

        app = Requests(fail, Metrics(), State())
        answer = asyncio.run(ask(app, headers={"x-request-id": "mine"}))
        detail = json.loads(answer.body)["error"]
        assert (answer.status, detail["message"], detail["param"]) == (status, said, None)
        assert detail["type"] == "server_error"
    assert "request mine failed" in caplog.text


def test_answers_carry_safe_headers_and_the_end_of_the_connection() -> None:
    state = State()
    headers = asyncio.run(ask(Requests(count, Metrics(), state))).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert "connection" not in headers
    state.stopping = True
    assert asyncio.run(ask(Requests(count, Metrics(), state))).headers["connection"] == "close"


def test_a_line_of_the_log_has_no_payload() -> None:
    metrics, log = Metrics(), io.StringIO()
    app = Requests(Admission(count, Limits(), metrics), metrics, State(log=log))
    names = {"x-request-id": "mine", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    answer = asyncio.run(ask(app, b"secret", path="/secret", headers=names))
    assert answer.headers["x-request-id"] == "mine"
    forged = asyncio.run(ask(app, headers={"x-request-id": "a\nb"})).headers["x-request-id"]
    line, other = map(json.loads, log.getvalue().splitlines())
    assert (line["id"], line["route"], line["status"]) == ("mine", "other", 200)
    assert (line["trace"], "trace" in other) == ("a" * 32, False)
    assert (line["received"], line["sent"]) == (6, 1)
    assert line["ms"] >= 0
    assert "secret" not in json.dumps(line)
    assert other["id"] == forged != "a\nb"
