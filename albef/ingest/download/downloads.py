"""Download of a list: a thread that requests images some chunks of rows ahead of the reader."""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from albef.ingest.download.addresses import host_of
from albef.ingest.download.client import Client, Response
from albef.ingest.download.limits import Limits
from albef.ingest.download.store import DownloadStore, Outcome
from albef.io import lock
from albef.layout import Engine

T = TypeVar("T")
_AHEAD = 32  # chunks: a host that fails slowly delays the rows behind it, but not their download
_MAX_REMEMBERED = 10_000  # failed hosts
_LOG_EVERY_S = 10.0
_MAX_NAMED = 3  # pausing hosts that a progress line names
log = logging.getLogger("albef")


class _Host:
    """Host. Rows wait for a turn at it before they take a connection that others may need."""

    def __init__(self, per_host: int) -> None:
        self.turns = asyncio.Semaphore(per_host)
        self.rows = 0  # waiting or being requested
        self.failures = 0  # consecutive attempts that failed for a while
        self.paused = 0.0  # seconds that the host has requested, less one for each final response
        self.pauses_until = 0.0  # in the time of the event loop
        self.refusal: Response | None = None  # what its other rows get instead of a request

    async def pause(self) -> None:
        """Wait until the pause that the host has requested is over."""
        now = asyncio.get_running_loop().time
        while self.refusal is None and (seconds := self.pauses_until - now()) > 0:
            await asyncio.sleep(seconds)

    def update(self, response: Response, limits: Limits, now: float) -> None:
        """Take account of a response of the host; a final one is an image or a final error."""
        if not response.is_temporary:
            self.failures, self.paused = 0, max(0.0, self.paused - 1)
            return
        self.failures += 1
        problem = ""
        if response.wait:
            until = max(self.pauses_until, now + response.wait)
            self.paused += until - max(self.pauses_until, now)
            self.pauses_until = until
            if self.paused > limits.max_wait_s:
                limit = f"max_wait_s is {limits.max_wait_s:g}"
                problem = f"the host asks for pauses of {self.paused:.0f} s, {limit}"
        if 0 < limits.give_up_after <= self.failures:
            problem = f"attempts at its host failed {self.failures} times in a row"
        if problem and not self.refusal:
            self.refusal = replace(response, detail=f"{response.detail}; {problem}")


class Downloads:
    """Downloader of the images of a list into a folder, each of them once, as a context manager.

    ``store`` has the outcomes and images. One process at a time works in the folder. The engine
    ``ray`` sends requests from each node of a cluster in turn.
    """

    def __init__(self, folder: Path, limits: Limits, engine: Engine = "local") -> None:
        self._folder = folder
        self._limits = limits
        self._engine = engine
        self._hosts: dict[str, _Host] = {}
        self._connections = asyncio.Semaphore(limits.connections)
        self._requests = 0
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        text = "waiting for %s, because process %s downloads the same list"
        path = self._folder / "lock"
        self._exits.enter_context(lock(path, lambda holder: log.info(text, self._folder, holder)))
        os.utime(self._folder)  # A folder that is not used for long is removed.
        self.store = DownloadStore(self._folder)
        self._exits.callback(self.store.close)
        self._client = Client(self._limits)
        self._fetches: list[Callable[[str], Awaitable[Response]]] = [self._client.fetch]
        if self._engine == "ray":
            from albef.cluster import on_each_node  # Ray is imported only if it is requested.

            clients = on_each_node(Client, self._limits, at_once=self._limits.connections)
            self._fetches = [each.fetch.remote for each in clients]
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="downloads", daemon=True)
        thread.start()
        self._exits.callback(self._loop.close)
        self._exits.callback(thread.join)
        self._exits.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        self._exits.callback(lambda: self._call(self._stop()).result())
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def chunks(
        self, lists: Iterable[tuple[T, Sequence[str]]]
    ) -> Iterator[tuple[T, dict[str, Outcome]]]:
        """Download chunks, each a value and URLs; yield the value with the outcomes of its URLs.

        Raises:
            OSError: a download cannot be stored.
        """
        pending: deque[tuple[T, Future[dict[str, Outcome]]]] = deque()
        for number, (value, addresses) in enumerate(lists, 1):
            pending.append((value, self._call(self._download(addresses))))
            read = number - len(pending)
            if len(pending) > min(_AHEAD, 1 + read):  # If few rows are read, few are downloaded.
                yield self._next(pending)
        while pending:
            yield self._next(pending)

    def _next(
        self, pending: "deque[tuple[T, Future[dict[str, Outcome]]]]"
    ) -> tuple[T, dict[str, Outcome]]:
        value, future = pending.popleft()
        while not concurrent.futures.wait([future], _LOG_EVERY_S).done:
            log.info("downloading: %d requests so far%s", self._requests, self._pauses())
        return value, future.result()

    def _pauses(self) -> str:
        """Return the end of a progress line: the hosts that asked for a pause, longest first."""
        now = self._loop.time()
        pauses = {name: host.pauses_until - now for name, host in list(self._hosts.items())}
        longest = sorted(pauses, key=lambda name: -pauses[name])[:_MAX_NAMED]
        named = [f"{name} ({pauses[name]:.0f} s)" for name in longest if pauses[name] > 0]
        return f"; pausing as requested by {', '.join(named)}" if named else ""

    def _call(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _stop(self) -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_default_executor()

    async def _download(self, addresses: Sequence[str]) -> dict[str, Outcome]:
        known = self.store.outcomes(addresses)
        missing = [
            self._fetch(url)
            for url in dict.fromkeys(addresses)
            if url not in known or not known[url].is_final(self._limits)
        ]
        fetched = await asyncio.gather(*missing)
        return known | {outcome.address: outcome for outcome in fetched}

    async def _fetch(self, url: str) -> Outcome:
        limits, name = self._limits, host_of(url)
        host = self._hosts.setdefault(name, _Host(limits.per_host))
        host.rows += 1
        attempts = 0
        wait: float | None = 0.0
        while wait is not None:
            await asyncio.sleep(wait)
            async with host.turns:
                await host.pause()
                async with self._connections:
                    if host.refusal:
                        response, wait = host.refusal, None
                        if not response.responded:  # A later run does not try a dead host again.
                            attempts = limits.attempts
                    else:
                        attempts, self._requests = attempts + 1, self._requests + 1
                        fetch = self._fetches[self._requests % len(self._fetches)]
                        response = await fetch(url)
                        host.update(response, limits, self._loop.time())
                        wait = self._wait(response, attempts)
        reason, detail = str(response.reason or ""), response.detail
        outcome = Outcome(url, attempts, limits.max_bytes, reason, detail, response.is_temporary)
        outcome = self.store.add(outcome, response.body)
        host.rows -= 1
        is_remembered = host.refusal or host.failures
        if not host.rows and (not is_remembered or len(self._hosts) > _MAX_REMEMBERED):
            del self._hosts[name]
        return outcome

    def _wait(self, response: Response, attempts: int) -> float | None:
        """Return the seconds before the next attempt; None if no attempt follows."""
        limits = self._limits
        wait = max(limits.backoff_s * 2 ** (attempts - 1), response.wait or 0.0)
        is_final = not response.is_temporary or attempts >= limits.attempts
        return None if is_final or wait > limits.max_wait_s else wait
