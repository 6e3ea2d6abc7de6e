"""Whose turn it is: rows waiting by host, so that a slow host holds up no other."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from albef.ingest.download.client import host_of
from albef.ingest.download.store import Chunk

_REMEMBERED = 10_000  # hosts that gave no answer


@dataclass(slots=True)
class Job:
    """A row to be downloaded.

    Attributes:
        row: of the list.
        address: its URL.
        chunk: keeps its outcome.
        done: set when that is kept.
        attempts: made so far.
        host: whose turn it waits for.
    """

    row: int
    address: str
    chunk: Chunk
    done: "asyncio.Future[None]"
    attempts: int = 0
    host: str = ""

    def __post_init__(self) -> None:
        self.host = host_of(self.address)


@dataclass(slots=True)
class _Host:
    waiting: deque[Job] = field(default_factory=deque)
    active: int = 0
    paused: int = 0
    offered: bool = False


class Hosts:
    """Jobs by host, given out in turn, never more than ``per_host`` of one host at once.

    Args:
        per_host: requests at once to a host.
        give_up_after: attempts in a row without an answer; 0 is never.
    """

    def __init__(self, per_host: int, give_up_after: int) -> None:
        self._per_host = per_host
        self._give_up_after = give_up_after
        self._hosts: dict[str, _Host] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._silent: OrderedDict[str, int] = OrderedDict()

    def put(self, job: Job) -> None:
        """Have a job wait for its turn."""
        self._hosts.setdefault(job.host, _Host()).waiting.append(job)
        self._offer(job.host)

    async def take(self) -> Job:
        """The next job whose host has room; it must be given back by :meth:`release`."""
        name = await self._ready.get()
        host = self._hosts[name]
        host.offered = False
        job = host.waiting.popleft()
        host.active += 1
        self._offer(name)
        return job

    def release(self, job: Job, *, answered: bool) -> None:
        """Give a job back: its host has room again."""
        self._hosts[job.host].active -= 1
        if answered:
            self._silent.pop(job.host, None)
        else:
            self._silent[job.host] = self._silent.pop(job.host, 0) + 1
            if len(self._silent) > _REMEMBERED:
                self._silent.popitem(last=False)
        self._offer(job.host)

    def pause(self, name: str, seconds: float) -> None:
        """Ask nothing of a host for some time."""
        self._hosts.setdefault(name, _Host()).paused += 1
        asyncio.get_running_loop().call_later(seconds, self._resume, name)

    def silent(self, name: str) -> bool:
        """Whether a host has left so many attempts without an answer that it is given up."""
        return 0 < self._give_up_after <= self._silent.get(name, 0)

    def _resume(self, name: str) -> None:
        self._hosts[name].paused -= 1
        self._offer(name)

    def _offer(self, name: str) -> None:
        host = self._hosts[name]
        if host.waiting and host.active < self._per_host and not host.paused:
            if not host.offered:
                host.offered = True
                self._ready.put_nowait(name)
        elif not (host.waiting or host.active or host.paused or host.offered):
            del self._hosts[name]
