"""Load over loopback: clients that wait for their answers, or arrivals that wait for nobody."""

import asyncio
import random
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

try:
    import uvloop
except ImportError:  # not on Windows
    uvloop = None  # type: ignore[assignment]


class Request(NamedTuple):
    """What is sent: bodies, one after the other."""

    path: str
    kind: str
    bodies: list[bytes]


class Load(NamedTuple):
    """What came of a load.

    Attributes:
        rate: answers a second.
        seconds: of each answer.
        failed: requests that were not answered with 200.
    """

    rate: float
    seconds: list[float]
    failed: int

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of the answers took at most."""
        return 1000 * float(np.quantile(self.seconds, share)) if self.seconds else float("nan")

    def cells(self) -> str:
        """Cells of a table's row."""
        quantiles = f"{self.quantile(0.5):.1f} | {self.quantile(0.99):.1f}"
        return f"{self.rate:.1f} | {quantiles} | {self.failed}"


def apply(port: int, request: Request, seconds: float, **how: Any) -> Load:
    """A load from another process."""
    return _generator().submit(run, port, request, seconds, **how).result()


@cache
def _generator() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def run(
    port: int,
    request: Request,
    seconds: float,
    clients: int = 0,
    rate: float = 0,
    at_random: bool = False,
    token: str = "",
) -> Load:
    """Clients that each send as soon as they are answered, or arrivals that wait for nobody."""
    times: list[float] = []
    failed = 0
    idle: list[_Connection] = []
    requests = [
        f"POST {request.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {request.kind}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in request.bodies
    ]
    start = time.perf_counter()

    loop = asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()

    async def ask(due: float, count: int) -> None:
        """One request; its latency counts from when it should be sent."""
        nonlocal failed
        # the one that rested longest: a server closes those that rest too long
        if not (connection := idle.pop(0) if idle else None):
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        if await connection.ask(requests[count % len(requests)]):
            times.append(time.perf_counter() - due)
        else:
            failed += 1
        if not connection.transport.is_closing():
            idle.append(connection)

    async def client(count: int) -> None:
        await ask(time.perf_counter(), count)
        while time.perf_counter() - start < seconds:
            count += clients
            await ask(time.perf_counter(), count)

    async def arrivals() -> None:
        draw, due = random.Random(0), start
        asked: list[asyncio.Task[None]] = []
        while due - start < seconds:
            due += draw.expovariate(rate) if at_random else 1 / rate
            await asyncio.sleep(max(0, due - time.perf_counter()))
            asked.append(asyncio.create_task(ask(due, len(asked))))
        await asyncio.gather(*asked)

    async def everything() -> None:
        await asyncio.gather(*map(client, range(clients)), *([arrivals()] if rate else []))
        for connection in idle:
            connection.transport.close()

    loop.run_until_complete(everything())
    loop.close()
    return Load(len(times) / (time.perf_counter() - start), times, failed)


class _Connection(asyncio.Protocol):
    """A connection that stays open: one request after the other."""

    transport: Any
    _answer: "asyncio.Future[bool]"
    _received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        """Whether a request is answered as it should be."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        head = head.lower()
        length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
        if not end or len(body) < int(length):
            return
        self._received = b""
        if b"\r\nconnection: close" in head:
            self.transport.close()
        self._answer.set_result(head.startswith(b"http/1.1 200"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_result(False)
