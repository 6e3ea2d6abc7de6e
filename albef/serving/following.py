"""Replacement of a running server's exports when their folders or links change."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from albef.io import dying_with_parent
from albef.serving.engine import Engine
from albef.serving.indexes.gallery import follow
from albef.serving.middleware.exchange import CLIENT, HttpMiddleware, exchange_of

log = logging.getLogger("albef")
_IDLE = 0.1  # Seconds between two checks whether all requests are answered.


class Follower:
    """The current engine, and its replacement when the folders have other exports.

    The new engine is loaded while the old one serves, and reads the images of all indexes. It then
    replaces the old one in one step. A request is answered by the engine that it started with. An
    engine is released when no request can use it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute inside this context, and check for other exports at the options' interval."""
        options = self.engine.resources.options
        self._switch_to(self.engine)
        if options.follow:
            self._begin(self._check_folders(options.follow, options.refresh))
        try:
            yield
        finally:
            for task in (tasks := [*self._tasks]):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.engine.stop()
            await self.engine.resources.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _switch_to(self, engine: Engine) -> None:
        """Make an engine the current one, and update the indexes and the gallery for it."""
        self.engine = engine
        engine.announce()
        if self._reading:
            self._reading.cancel()
        self._reading = self._begin(self._read(engine))

    async def _read(self, engine: Engine) -> None:
        try:
            await engine.indexes.read_all()
        except Exception:  # No caller awaits this task, so the error is logged.
            log.exception("cannot update all indexes to %s", engine.names)
        gallery = engine.resources.options.gallery
        if gallery and "embed_image" in engine.calls:
            await follow(engine, gallery)

    async def _check_folders(self, every: float, refresh: Sequence[str]) -> None:
        folder_checks, last = self.engine.metrics.folder_checks, ""
        while True:
            await asyncio.sleep(every)
            try:
                if refresh:
                    await _run(refresh)
                if await asyncio.to_thread(self.engine.is_outdated):
                    await self._replace()
                    folder_checks.labels("replaced").inc()
                last = ""
            # If the new exports fail for any reason, the old ones are still served.
            except Exception as error:
                folder_checks.labels("failed").inc()
                if f"{error}" != last:  # The counter counts the same error at each check.
                    log.error("%s; still serving %s", error, self.engine.names)
                last = f"{error}"

    async def _replace(self) -> None:
        old = self.engine
        new = await asyncio.to_thread(Engine, old.resources)
        # An image added to the old engine's indexes is also read by the new one.
        old.indexes.successor = new.indexes
        try:
            await new.indexes.read_all()
        except BaseException:
            old.indexes.successor = None
            await new.stop()
            raise
        self._switch_to(new)
        log.info("now serving %s instead of %s", new.names, old.names)
        self._begin(self._retire(old))

    async def _retire(self, old: Engine) -> None:
        """Stop an engine when its requests have been answered, or have timed out."""
        deadline = time.monotonic() + old.limits.seconds
        try:
            while old.open_requests and time.monotonic() < deadline:
                await asyncio.sleep(_IDLE)
        finally:
            await old.stop()


@dataclass(eq=False)
class Current(HttpMiddleware):
    """Middleware that gives a request its client and the current engine."""

    follower: Follower

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        CLIENT.set(exchange_of(scope).client)
        with self.follower.engine.answering():
            await self.app(scope, receive, send)


async def _run(command: Sequence[str]) -> None:
    """Run a command; raise an OSError with its last line of output if it fails."""
    # Its output is captured, because lines of the log must be JSON.
    process = await asyncio.create_subprocess_exec(
        *dying_with_parent(command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or [
            f"exit code {process.returncode}"
        ]
        raise OSError(f"`{' '.join(command)}` failed: {lines[-1]}")
