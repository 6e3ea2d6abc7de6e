"""Server process: uvicorn with limits and a graceful shutdown."""

import asyncio
import logging
import signal
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from albef.serving.limits import Limits
from albef.serving.middleware.exchange import State

_HEAD = 16 * 1024  # Maximum bytes of a request's line and headers, or of what frames a chunk.
_KEEP_ALIVE = 65  # Seconds between two requests of a connection. Load balancers close it after 60.
# Bytes of a connection that are parsed in one step of the event loop; more within a body of known
# length, which costs less.
_READ, _READ_BODY = 4 * 1024, 24 * 1024
_ONCE = (b"host", b"transfer-encoding")

log = logging.getLogger("albef")


class _Joining:
    """A transport that sends the head of an answer with the first piece of its body."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes; the head of an answer stays until the next ones, or until a flush."""
        if data.startswith(b"HTTP/1.1 ") and not (self._head or data.startswith(b"HTTP/1.1 100")):
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send a head without a body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close after all bytes were sent."""
        self.flush()
        self._transport.close()


class _Parser(HttpToolsProtocol):
    """uvicorn's protocol, which limits headers and continues if a client offers another protocol.

    httptools has no limit. After an offer, it takes the body for bytes of the other protocol.
    """

    _unfinished = 0  # Bytes since the last complete headers, or since the last piece of a body.
    rest = 0  # Bytes that the body still needs, if its length is known.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joining(transport))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """End an answer; that to HEAD has no body."""
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def parse(self, data: Any) -> None:
        self._unset_keepalive_if_required()
        self._unfinished += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            # The offer is declined: the request is parsed again, without it.
            version = self.parser.get_http_version().encode()
            line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
            kept = [b"%b: %b\r\n" % each for each in self.headers if each[0] != b"upgrade"]
            self.parser = HttpRequestParser(self)
            self.parse(line + b"".join(kept) + b"\r\n" + bytes(data[offer.args[0] :]))
        except HttpParserError:
            self._refuse()
        else:
            if self._unfinished > _HEAD:
                self._refuse()

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """Start the request, unless proxies may read it in another way."""
        self._unfinished = 0
        names = [name for name, _ in self.headers]
        fields = dict(self.headers)
        encoding = fields.get(b"transfer-encoding")
        if any(names.count(name) > 1 for name in _ONCE) or encoding not in (None, b"chunked"):
            raise HttpParserError
        if not self.parser.should_upgrade():
            self.rest = 0 if encoding else int(fields.get(b"content-length", 0))
            super().on_headers_complete()
            self.headers = []  # Fields after the body are not headers.
        elif b"upgrade" not in names:  # CONNECT
            raise HttpParserError

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        self.rest -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()


class _Protocol(asyncio.BufferedProtocol):
    """The protocol behind a small buffer.

    A body in chunks of a byte costs a call for each. With the usual 256 KiB, one connection would
    hold up all others. A loop fills the buffer and parses it in one step, so all connections share
    it.
    """

    _buffer = memoryview(bytearray(_READ_BODY))

    def __init__(self, **options: Any) -> None:
        # Not its subclass, because uvloop gives an asyncio.Protocol as many bytes as have arrived.
        self._inner = inner = _Parser(**options)
        for name in ("connection_made", "connection_lost", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(inner, name))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: max(_READ, self._inner.rest)]

    def buffer_updated(self, nbytes: int) -> None:
        self._inner.parse(self._buffer[:nbytes])


class Server(uvicorn.Server):
    """Server that runs an application until a signal, then finishes the accepted requests.

    At the first signal the state's ``stopping`` becomes true. For ``drain`` seconds it still
    accepts requests, but readiness probes fail, so load balancers stop sending. A second signal
    stops it at once. Port 0 selects a free port.
    """

    def __init__(
        self, app: FastAPI, state: State, limits: Limits, host: str, port: int, drain: float = 0
    ) -> None:
        # FastAPI itself looks for telemetry at each request.
        stack = app if "opentelemetry.sdk" in sys.modules else app.build_middleware_stack()

        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            scope["app"] = app  # Without it, Starlette answers unknown paths with plain text.
            await stack(scope, receive, send)

        config = uvicorn.Config(
            served,
            host=host,
            port=port,
            http=_Protocol,  # type: ignore[arg-type]  # It takes any protocol.
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.grace)),
        )
        super().__init__(config)
        self.drain, self._state, self._stopping_since = drain, state, 0.0

    async def startup(self, sockets: Any = None) -> None:
        """Start, and log the address."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("serving at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop at once.

        uvicorn's own handler would exit with the signal's code.
        """
        if self._state.stopping:
            self.should_exit = self.force_exit = True
            return
        self._state.stopping, self._stopping_since = True, time.monotonic()
        log.info("%s: finishing accepted requests", signal.Signals(sig).name)
        self.should_exit = not self.drain

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop, which is also true after the drain time."""
        if self._state.stopping and time.monotonic() >= self._stopping_since + self.drain:
            self.should_exit = True
        return await super().on_tick(counter)
