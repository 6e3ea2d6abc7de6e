"""A server process: uvicorn with times for slow clients and a graceful end."""

import asyncio
import logging
import signal
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from albef.serving.limits import Limits
from albef.serving.middleware import State

_HEADERS = 16 * 1024  # most bytes of a request's line and headers
_KEEP_ALIVE = 65  # seconds between two requests of a connection; balancers let go after 60

log = logging.getLogger("albef")


def _protocol(header_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which by itself waits for a request's headers for ever."""

    class Patient(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._patience = self.loop.call_later(header_seconds, self._give_up)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:  # the headers of a request are complete
                self._rest()
            elif self._patience is None and (before is None or before.response_complete):
                self._patience = self.loop.call_later(header_seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def _rest(self) -> None:
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
            loop="asyncio",
            http=_protocol(limits.header_seconds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.grace)),
            h11_max_incomplete_event_size=_HEADERS,
        )
        super().__init__(config)
        self.drain, self._state, self._left = drain, state, 0.0

    async def startup(self, sockets: Any = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("serving at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop."""
        if self._state.leaving:
            self.should_exit = self.force_exit = True
            return
        self._state.leaving, self._left = True, time.monotonic()
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        self.should_exit = not self.drain

    async def on_tick(self, counter: int) -> bool:
        """See whether the time to drain is over."""
        if self._state.leaving and time.monotonic() >= self._left + self.drain:
            self.should_exit = True
        return await super().on_tick(counter)
