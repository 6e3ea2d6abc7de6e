"""The download of a list: a thread that asks, some chunks of rows ahead of what is read."""

import asyncio
import concurrent.futures
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from albef.data.refusal import Reason
from albef.ingest.download import client
from albef.ingest.download.client import Failure, Picture
from albef.ingest.download.hosts import Hosts, Job
from albef.ingest.download.limits import Limits
from albef.ingest.download.store import Chunk, Outcome

T = TypeVar("T")
_AHEAD = 32  # chunks: a host that is slow to fail holds up those behind it, but not their download
_RESOLVERS = 64  # threads, in which names are resolved
_SYNC_S = 1.0
_SAY_S = 10.0
log = logging.getLogger("albef")


class Downloads:
    """Downloads the pictures of a list into a folder, none of them twice.

    Args:
        folder: keeps what was downloaded of this list; one process at a time works in it.
        limits: what bounds the download.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._open: set[Chunk] = set()
        self._asked = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        os.utime(self._folder)  # it is in use, and not forgotten
        self._lock = _locked(self._folder / "lock")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="downloads", daemon=True
        )
        self._thread.start()
        self._call(self._start()).result()
        return self

    def __exit__(self, *error: object) -> None:
        self._call(self._stop()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for chunk in self._open:
            chunk.close()
        self._lock.close()

    def chunks(
        self, lists: Iterable[tuple[T, Sequence[tuple[int, str]]]]
    ) -> Iterator[tuple[T, Chunk]]:
        """Download chunks of rows, and give each when all of its rows have an outcome.

        Args:
            lists: for each chunk whatever belongs to it, and its rows with their addresses.

        Raises:
            OSError: what is downloaded cannot be kept.
        """
        pending: deque[tuple[T, Future[Chunk]]] = deque()
        for number, (told, rows) in enumerate(lists):
            pending.append((told, self._call(self._chunk(number, rows))))
            given = number + 1 - len(pending)
            if len(pending) > min(_AHEAD, 1 + given):  # who reads few rows has few downloaded
                yield from self._next(pending)
        while pending:
            yield from self._next(pending)

    def _next(self, pending: "deque[tuple[T, Future[Chunk]]]") -> Iterator[tuple[T, Chunk]]:
        told, future = pending.popleft()
        while not concurrent.futures.wait([future], _SAY_S).done:
            log.info("downloading: %d requests so far", self._asked)
        with future.result() as chunk:
            yield told, chunk
        self._open.discard(chunk)

    def _call(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        self._loop.set_default_executor(ThreadPoolExecutor(_RESOLVERS, "downloads"))
        self._hosts = Hosts(self._limits.per_host, self._limits.give_up_after)
        self._client = client.session(self._limits)
        workers = [self._work() for _ in range(self._limits.connections)]
        self._tasks = [self._loop.create_task(work) for work in (*workers, self._syncing())]

    async def _stop(self) -> None:
        own = asyncio.all_tasks() - {asyncio.current_task()}
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_default_executor()

    async def _chunk(self, number: int, rows: Sequence[tuple[int, str]]) -> Chunk:
        chunk = Chunk(self._folder, number)
        self._open.add(chunk)
        jobs = []
        for row, address in rows:
            held = chunk.outcomes.get(row)
            if held is None or not held.holds(self._limits):
                jobs.append(Job(row, address, chunk, self._loop.create_future()))
        for job in jobs:
            self._hosts.put(job)
        await asyncio.gather(*(job.done for job in jobs))
        await asyncio.to_thread(chunk.sync)
        return chunk

    async def _work(self) -> None:
        while True:
            job = await self._hosts.take()
            try:
                await self._attempt(job)
            except Exception as error:  # as of a full disk: raised to who waits for the row
                if not job.done.done():
                    job.done.set_exception(error)

    async def _attempt(self, job: Job) -> None:
        """Ask for a row once; keep its outcome, or have it wait for another attempt."""
        limits, hosts = self._limits, self._hosts
        if hosts.silent(job.host):
            said = f"its host left {limits.give_up_after} attempts in a row without an answer"
            job.attempts = limits.attempts
            self._keep(job, Failure(Reason.UNREACHABLE, said, passing=True))
            hosts.release(job, answered=False)
            return
        job.attempts += 1
        self._asked += 1
        answer = await client.fetch(self._client, job.address, limits)
        wait = self._wait(job, answer)
        if wait is None:
            self._keep(job, answer)
        else:
            self._loop.call_later(wait, hosts.put, job)
        hosts.release(job, answered=answer.answered)

    def _wait(self, job: Job, answer: Picture | Failure) -> float | None:
        """Seconds before the next attempt; None where there is none."""
        limits = self._limits
        if isinstance(answer, Picture) or not answer.passing:
            return None
        wait = max(limits.backoff_s * 2 ** (job.attempts - 1), answer.wait or 0.0)
        if answer.wait:  # it is the host that asks for a rest
            self._hosts.pause(job.host, min(answer.wait, limits.max_wait_s))
        return None if job.attempts >= limits.attempts or wait > limits.max_wait_s else wait

    def _keep(self, job: Job, answer: Picture | Failure) -> None:
        outcome = Outcome(job.row, job.attempts, self._limits.max_bytes)
        if isinstance(answer, Picture):
            job.chunk.add(outcome, answer.body)
        else:
            why = (answer.reason, answer.detail, answer.passing)
            job.chunk.add(Outcome(outcome.row, outcome.attempts, outcome.limit, *why))
        if not job.done.done():
            job.done.set_result(None)

    async def _syncing(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_S)
            for chunk in list(self._open):
                await asyncio.to_thread(chunk.sync)


def _locked(path: Path) -> IO[bytes]:
    """The file at a path, locked: it is waited for while another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for %s: another process downloads the same list", path.parent)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file
