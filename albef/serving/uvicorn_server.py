"""Server process: uvicorn with limits and a graceful shutdown."""

import logging
import signal
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from albef.serving.limits import Options
from albef.serving.middleware.exchange import State

_KEEP_ALIVE = 65  # Seconds between two requests of a connection. Load balancers close it after 60.

log = logging.getLogger("albef")


class Server(uvicorn.Server):
    """Server that runs an application until a signal, then finishes the accepted requests.

    At the first signal the state's ``stopping`` becomes true. For ``drain`` seconds it still
    accepts requests, but readiness probes fail, so load balancers stop sending. A second signal
    stops it at once. Port 0 selects a free port.
    """

    def __init__(
        self, app: FastAPI, state: State, options: Options, host: str, port: int, drain: float = 0
    ) -> None:
        limits = options.limits
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(options.proxies),
            forwarded_allow_ips=list(options.proxies),
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
