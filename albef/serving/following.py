"""A server that follows its exports: what their folders lead to is served, once it is ready."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from albef.serving.engine import ENGINE, Engine
from albef.serving.indexes.gallery import follow
from albef.serving.middleware.exchange import HttpMiddleware

log = logging.getLogger("albef")
_IDLE = 0.1  # seconds between two looks whether all is answered


class Follower:
    """The engine that answers, and the next one when the folders have other exports.

    The next is loaded beside it, reads the pictures of all indexes, and then takes its place in one
    step; where it has other calls, ``mount`` makes their routes. A request is answered by the
    engine that it began with, which is let go of when none can be left.
    """

    def __init__(self, engine: Engine, mount: Callable[[Collection[str]], None]) -> None:
        self.engine, self._mount = engine, mount
        self._reading: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute inside this context, and look for other exports as often as the options say, and
        at SIGHUP."""
        options = self.engine.resources.options
        self.engine.start()
        self._switch_to(self.engine)
        if options.follow:
            wake = asyncio.Event()
            self._begin(self._look(options.follow, options.refresh, wake))
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, wake.set)
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
        """Let an engine answer from now on, and bring indexes and gallery to it meanwhile."""
        self.engine = engine
        engine.announce()
        if self._reading:
            self._reading.cancel()
        self._reading = self._begin(self._read(engine))

    async def _read(self, engine: Engine) -> None:
        try:
            await engine.indexes.read_all()
        except Exception:  # nobody waits for this, so it is told here
            log.exception("not all indexes can be searched")
        gallery = engine.resources.options.gallery
        if gallery and "embed_image" in engine.calls:
            await follow(engine, gallery)

    async def _look(self, every: float, refresh: Sequence[str], wake: asyncio.Event) -> None:
        looks = self.engine.metrics.looks
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), every)
            wake.clear()
            try:
                if refresh:
                    await _run(refresh)
                if await asyncio.to_thread(self.engine.is_outdated):
                    await self._replace()
                    looks.labels("replaced").inc()
            except Exception as error:  # whatever is wrong with what is new, the old one serves
                looks.labels("failed").inc()
                log.error("%s; %s is served still", error, self.engine.names)

    async def _replace(self) -> None:
        old = self.engine
        new = await asyncio.to_thread(Engine, old.resources)
        new.start()
        old.indexes.successor = new.indexes  # what one adds to an index the other reads too
        try:
            await new.indexes.read_all()
            if new.calls.keys() != old.calls.keys():
                self._mount(new.calls)
        except BaseException:
            old.indexes.successor = None
            await new.stop()
            raise
        self._switch_to(new)
        log.info("%s is served in place of %s", new.names, old.names)
        self._begin(self._retire(old))

    async def _retire(self, old: Engine) -> None:
        """Stop an engine once nothing is asked, or else what it was asked is given up."""
        deadline = time.monotonic() + old.limits.seconds
        try:
            while old.metrics.open_requests and time.monotonic() < deadline:
                await asyncio.sleep(_IDLE)
        finally:
            await old.stop()


@dataclass(eq=False)
class Current(HttpMiddleware):
    """Has a request answered by the engine that a follower has when it begins."""

    follower: Follower

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        ENGINE.set(self.follower.engine)
        await self.app(scope, receive, send)


async def _run(command: Sequence[str]) -> None:
    """Run a command to its end.

    Raises:
        OSError: it failed; its last words.
    """
    process = await asyncio.create_subprocess_exec(  # lines of the log are JSON
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"{process.returncode}"]
        raise OSError(f"`{' '.join(command)}` failed: {lines[-1]}")
