"""A server on this machine that behaves and misbehaves; it counts what it is asked."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import unquote

from tests.data import toy

PICTURE = toy.picture(7)
Response = tuple[int, dict[str, str], bytes]


class Server:
    """Serves ``/WHAT/...`` by the method ``WHAT``; ``/ok/N`` is picture N.

    Attributes:
        asked: how often each path was asked for.
        headers: of the last request.
        at_once: the most requests that were answered at the same time.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.at_once = 0
        self.slow_s = 0.0
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *error: object) -> None:
        async def stop() -> None:
            self._server.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.splitlines()
        path = first.split()[1]
        self.headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        self.asked[path] += 1
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        try:
            what: Callable[..., Awaitable[Response | None]] = getattr(self, path.split("/")[1])
            answer = await what(path, writer)
            if answer is not None:
                await self._send(writer, *answer)
        finally:
            self._now -= 1

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        told = {"Content-Type": "image/png", "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value)
        head = f"HTTP/1.1 {status} X\r\n{lines}\r\n"
        writer.write(head.encode("utf-8", "surrogateescape") + body)
        await writer.drain()

    async def ok(self, path: str, writer: Any) -> Response:
        return 200, {}, toy.picture(int(path.split("/")[2]))

    async def status(self, path: str, writer: Any) -> Response:
        status = int(path.split("/")[2])
        return status, {}, b"" if status in (204, 304) else b"said"

    async def later(self, path: str, writer: Any) -> Response:
        """``/later/STATUS/N``: the status N times, then the picture."""
        _, _, status, times = path.split("/")
        if self.asked[path] > int(times):
            return 200, {}, PICTURE
        return int(status), {"Retry-After": "0"}, b""

    async def asks(self, path: str, writer: Any) -> Response:
        """``/asks/SECONDS``: come back so much later."""
        return 503, {"Retry-After": path.split("/")[2]}, b""

    async def robots(self, path: str, writer: Any) -> Response:
        return 200, {"X-Robots-Tag": path.split("/")[2].replace("%20", " ")}, PICTURE

    async def tdm(self, path: str, writer: Any) -> Response:
        return 200, {"tdm-reservation": path.split("/")[2]}, PICTURE

    async def kind(self, path: str, writer: Any) -> Response:
        return 200, {"Content-Type": path.removeprefix("/kind/")}, PICTURE

    async def packed(self, path: str, writer: Any) -> Response:
        return 200, {"Content-Encoding": "gzip"}, b"x"

    async def to(self, path: str, writer: Any) -> Response:
        """``/to/ADDRESS``: a redirect."""
        return 302, {"Location": unquote(path.removeprefix("/to/"))}, b""

    async def nowhere(self, path: str, writer: Any) -> Response:
        return 302, {}, b""

    async def loop(self, path: str, writer: Any) -> Response:
        return 302, {"Location": path}, b""

    async def large(self, path: str, writer: Any) -> Response:
        return 200, {}, b"x" * 2**21

    async def endless(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Never says how much it is."""
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            await writer.drain()

    async def cut(self, path: str, writer: asyncio.StreamWriter) -> None:
        """``/cut/N``: breaks off N times."""
        if self.asked[path] > int(path.split("/")[2]):
            await self._send(writer, 200, {}, PICTURE)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        writer.close()

    async def silent(self, path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def drip(self, path: str, writer: asyncio.StreamWriter) -> None:
        """A byte now and then: each read is in time, the whole never is."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def rubbish(self, path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\xff no http at all\r\n\r\n")
        writer.close()

    async def close(self, path: str, writer: asyncio.StreamWriter) -> None:
        writer.close()
