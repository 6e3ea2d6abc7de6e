"""A server process: uvicorn with bounds, and an end that finishes what was accepted."""

import logging
import signal
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from albef.serving.limits import Limits
from albef.serving.middleware.exchange import State

_HEAD = 16 * 1024  # most bytes of a request's line and headers
_KEEP_ALIVE = 65  # seconds between two requests of a connection; balancers let go after 60

log = logging.getLogger("albef")


class Server(uvicorn.Server):
    """Runs an application until it is told to stop, then finishes what it accepted.

    At the first signal the state's ``leaving`` becomes true. For ``drain`` seconds after it
    requests are still accepted while readiness is refused, for balancers that ask for it. A second
    signal does not wait. Port 0 takes a free one.

    h11 parses requests: unlike httptools it bounds their headers, and reads on where another
    protocol is offered.
    """

    def __init__(
        self, app: ASGIApp, state: State, limits: Limits, host: str, port: int, drain: float = 0
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http="h11",
            h11_max_incomplete_event_size=_HEAD,
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
        self.drain, self._state, self._leaving_since = drain, state, 0.0

    async def startup(self, sockets: Any = None) -> None:
        """Start, and log the address."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("serving at http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop. uvicorn's own ends with the signal's code."""
        if self._state.leaving:
            self.should_exit = self.force_exit = True
            return
        self._state.leaving, self._leaving_since = True, time.monotonic()
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        self.should_exit = not self.drain

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: also when the time to drain is over."""
        if self._state.leaving and time.monotonic() >= self._leaving_since + self.drain:
            self.should_exit = True
        return await super().on_tick(counter)
