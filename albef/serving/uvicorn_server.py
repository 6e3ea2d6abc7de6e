"""A server process: uvicorn with times for slow clients, room for new ones and a graceful end."""

import asyncio
import contextlib
import logging
import re
import signal
import socket
import time
from collections import Counter
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.middleware.exchange import State, full
from albef.serving.middleware.requests import REST

_HEAD = 16 * 1024  # most bytes of a request's line and headers
_KEEP_ALIVE = 65  # seconds between two requests of a connection; balancers let go after 60
_CONTINUE = b"HTTP/1.1 100 "
_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_LAST = 0.5  # seconds in which a connection that rests may ask once more of a server that leaves
_FULL = (
    (  # the answer of :func:`full`, but for one header
        STATUS_LINE[503] + b"content-type: application/json\r\ncache-control: no-store\r\n"
        b"retry-after: %s\r\ncontent-length: %d\r\n%%s\r\n%s"
    )
    % (full().headers["retry-after"].encode(), len(full().body), full().body)
)

log = logging.getLogger("albef")


class _JoinedWrites:
    """A cycle's way to its transport, on which an answer's head waits for the body, so that both
    go out by one call of the system."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._transport, self._complete, self._head = cycle.transport, cycle.on_response, b""
        self.is_closing = cycle.transport.is_closing
        cycle.transport, cycle.on_response = self, self._end  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        """Write, or keep the head of an answer."""
        if not self._head and data.endswith(b"\r\n\r\n") and not data.startswith(_CONTINUE):
            self._head = data
        else:
            if not self.is_closing():  # else the client is gone, of which uvloop makes an error
                self._transport.write(self._head + data)
            self._head = b""

    def close(self) -> None:
        """Write what was kept, and close."""
        self.write(b"")
        self._transport.close()

    def _end(self) -> None:
        if self._head:  # of an answer without a body
            self.write(b"")
        self._complete()


def _protocol(limits: Limits, state: State) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which by itself waits for a request's headers for ever, takes any number
    of them, and at its bound of connections refuses the newest, whoever the others are."""

    class Patient(HttpToolsProtocol):
        _patience: asyncio.TimerHandle | None = None
        _in_head = False  # whether a request's headers are on their way
        _raw = _parsed = 0  # bytes of them, as they came and as they were read
        _trusted = False  # whether a request on it was let in

        @property
        def _rests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._host = (self.client or ("",))[0]
            self._began = self.loop.time()
            self._wait()
            if len(self.connections) > limits.connections:
                self._make_room()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _make_room(self) -> None:
            """Close a connection that asks nothing now: the oldest on which no request was let in,
            of the address that has most of these; else the oldest that was; else this one."""
            resting: list[Any] = [each for each in self.connections if each._rests]  # type: ignore[union-attr]
            strangers = [each for each in resting if not each._trusted and each is not self]
            hosts = Counter(each._host for each in strangers)
            crowd = [each for each in strangers if each._host == hosts.most_common(1)[0][0]]
            others = [each for each in resting if each is not self]
            dropped = min(crowd or others or [self], key=lambda each: each._began)
            dropped.transport.close()
            self.connections.discard(dropped)

        def data_received(self, data: bytes) -> None:
            cycle, in_head = self.cycle, self._in_head
            if in_head or cycle is None or not cycle.more_body:
                # Offered another protocol, as by Java's client, the parser would drop the body.
                head, end, rest = data.partition(b"\r\n\r\n")
                data = _OFFER.sub(b"\r\nx-upgrade:", head) + end + rest
            super().data_received(data)
            if self.cycle is not cycle:  # the headers of a request are complete
                self._stop_waiting()
            elif self._patience is None and self._rests:
                self._wait()
            if in_head and self._in_head:
                self._raw += len(data)
                if self._raw > _HEAD and not self.transport.is_closing():
                    self.send_400_response("")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope.update(trust=self._trust, rest=self._rest)  # type: ignore[call-arg]
            self._in_head, self._raw, self._parsed = True, 0, 0

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._parsed += len(name) + len(value) + len(b": \r\n")
            if self._parsed + len(self.url) > _HEAD:
                raise ValueError("the headers are too long")

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()
            _JoinedWrites(self.cycle)

        def send_400_response(self, msg: str) -> None:
            problem = Problem(400)
            head = (
                b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[400] + head % len(problem.body) + problem.body)
            self.transport.close()

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            """Where all places are taken, refuse by what is written once: all else costs more."""
            if not state.full or cycle.scope["method"] != "POST":
                super()._start_asgi_task(cycle, app)
                return
            state.count_refusal()
            cycle.response_started = cycle.response_complete = True
            closes = not cycle.keep_alive or cycle.waiting_for_100_continue or state.leaving
            self.transport.write(_FULL % (b"connection: close\r\n" if closes else b""))
            if closes:
                self.transport.close()
            self.on_response_complete()
            self._rest(REST)

        def shutdown(self) -> None:
            """Finish what is asked; one that rests may have asked already, or is about to."""
            if self._rests:
                self.loop.call_later(_LAST, self._leave)
            else:
                self.cycle.keep_alive = False

        def _leave(self) -> None:
            if self._rests and not self._in_head:
                self.transport.close()

        def _trust(self) -> None:
            self._trusted = True

        def _rest(self, seconds: float) -> None:
            """Read nothing more for a while."""
            if not self.transport.is_closing():
                self.transport.pause_reading()
                self.loop.call_later(seconds, self._go_on)

        def _go_on(self) -> None:
            if not self.transport.is_closing():
                self.transport.resume_reading()

        def _wait(self) -> None:
            self._patience = self.loop.call_later(limits.header_seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._patience = None
            self.transport.close()

    return Patient


class Server(uvicorn.Server):
    """Runs an application until it is told to stop, then finishes what it accepted.

    At the first signal the state's ``leaving`` becomes true; a second one does not wait. For
    ``drain`` seconds after it requests are still accepted while readiness is refused, for balancers
    that ask for it. Port 0 takes a free one.
    """

    def __init__(
        self, app: ASGIApp, state: State, limits: Limits, host: str, port: int, drain: float = 0
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=_protocol(limits, state),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.grace)),
        )
        super().__init__(config)
        self.drain, self._state, self._leaving_since = drain, state, 0.0

    async def startup(self, sockets: Any = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("serving at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take in those who have connected, of whom closing a socket would reset those that wait in
        its queue; then stop."""
        loop = asyncio.get_running_loop()
        for listening in [each for server in self.servers for each in server.sockets]:
            with (
                socket.fromfd(listening.fileno(), listening.family, listening.type) as queue,
                contextlib.suppress(OSError),  # BlockingIOError: nobody waits
            ):
                queue.setblocking(False)
                while True:
                    connection, _ = queue.accept()
                    await loop.connect_accepted_socket(self._make_protocol, connection)
        await super().shutdown(sockets)

    def _make_protocol(self) -> Any:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop."""
        if self._state.leaving:
            self.should_exit = self.force_exit = True
            return
        self._state.leaving, self._leaving_since = True, time.monotonic()
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        self.should_exit = not self.drain

    async def on_tick(self, counter: int) -> bool:
        """See whether the time to drain is over."""
        if self._state.leaving and time.monotonic() >= self._leaving_since + self.drain:
            self.should_exit = True
        return await super().on_tick(counter)
