"""A hostile web: servers that mislead, stall and flood an ingest, and clients that do so to a
server; every row is accounted for, the server answers, and memory stays bounded."""

import asyncio
import csv
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from albef.data.rejection import Reason
from albef.io import write_json
from tests.chaos.conftest import SEED
from tests.chaos.test_resume import ROOT
from tests.data import toy
from tests.data.test_image_decoding import jpeg
from tests.ingest.download.server import Response, Server
from tests.ingest.download.test_client import limits
from tests.pipelines.test_ingest import params
from tests.serving.running import PATIENCE, wait_until
from tests.serving.test_hostile import HOSTILE

pytestmark = pytest.mark.chaos
ROWS, EACH = 2000, 24
MIB = 2**20
BOMB = jpeg(1000)
LONG = b"x" * 2**16
NAMES = (
    *("http://a..b/", f"http://{'a' * 64}.invalid/", "http://[::1", "http://[fe80::1%25lo]/"),
    *("file:///etc/passwd", "//[", "javascript:0", "http://\udcff/", "http://xn--/", "http://%00/"),
    *("http://u:p@127.0.0.1/", "http://127.0.0.1:99999/", "http://127.0.0.1:0/", "http:///", "\\"),
    *(
        "https://127.0.0.1:PORT/ok/1",
        "http://0.0.0.0:PORT/ok/1",
        f"/{'a' * 9000}",
        "http://\u2100/",
    ),
    *("http://10.0.0.1:9/", "http://127.0.0.1:-1/", "gopher://127.0.0.1:PORT/", "http://.:PORT/"),
)
"""Where redirects lead: no name among them is looked up anywhere else."""


class Hostile(Server):
    """Answers ``/WHAT/N`` in ways that no server should; each is asked of some rows."""

    async def odd(self, path: str, writer: Any) -> Response:
        name = NAMES[int(path.split("/")[2]) % len(NAMES)].replace("PORT", str(self.port))
        return 302, {"Location": name.encode("utf-8", "surrogateescape").decode("latin-1")}, b""

    async def _send(self, writer: Any, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\n"
        writer.write(f"HTTP/1.1 {status} X\r\n{length}{lines}\r\n".encode("latin-1") + body)
        await writer.drain()

    async def _flood(self, writer: Any, start: bytes, piece: bytes) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()

    async def headers_without_end(self, path: str, writer: Any) -> None:
        await self._flood(writer, b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000)

    async def header_line(self, path: str, writer: Any) -> None:
        await self._flood(writer, b"HTTP/1.1 200 OK\r\nX-A: ", LONG)

    async def continues(self, path: str, writer: Any) -> None:
        await self._flood(writer, b"", b"HTTP/1.1 103 X\r\n\r\n" * 1000)

    async def chunk_size(self, path: str, writer: Any) -> None:
        await self._flood(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", LONG)

    async def trailers(self, path: str, writer: Any) -> None:
        start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        await self._flood(writer, start, b"X-A: b\r\n" * 1000)

    async def without_end(self, path: str, writer: Any) -> None:
        await self._flood(writer, b"HTTP/1.1 200 OK\r\n\r\n", LONG)

    async def lengths(self, path: str, writer: Any) -> None:
        said = ("-1", "9" * 5000, "1, 2", "0x10", "1\r\nContent-Length: 2")
        length = said[int(path.split("/")[2]) % len(said)]
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nxx".encode())

    async def opened(self, path: str, writer: Any) -> None:
        """All of a picture but its end, and the socket stays."""
        picture = toy.picture(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture[:-1])
        await asyncio.sleep(3600)

    async def drip(self, path: str, writer: Any) -> None:
        await self._drip(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 999)

    async def _drip(self, writer: Any, content: bytes) -> None:
        for i in range(len(content)):
            if not writer.is_closing():
                writer.write(content[i : i + 1])
                await writer.drain()
                await asyncio.sleep(0.3)

    async def silent(self, path: str, writer: Any) -> None:
        await asyncio.sleep(3600)

    async def bomb(self, path: str, writer: Any) -> Response:
        bad = (picture for picture, _ in HOSTILE.values())
        every = [BOMB, *(picture for picture in bad if picture[:2] != b"BM")]  # which ingest reads
        return 200, {}, every[int(path.split("/")[2]) % len(every)]


STALLED = {Reason.TIMED_OUT, Reason.UNREACHABLE}
BROKEN = {*STALLED, Reason.HTTP_ERROR, Reason.BAD_URL}
FLOODS = {*STALLED, Reason.TOO_MANY_BYTES}
ATTACKS = {
    "odd": {*BROKEN, Reason.PRIVATE_ADDRESS, Reason.NOT_FOUND},
    **dict.fromkeys(("headers_without_end", "header_line", "continues", "lengths"), BROKEN),
    **dict.fromkeys(("opened", "drip", "silent", "cut", "rubbish", "close"), BROKEN),
    **dict.fromkeys(("chunk_size", "trailers"), BROKEN),
    **dict.fromkeys(("without_end", "endless", "large"), FLOODS),
    "bomb": {
        *STALLED, Reason.NO_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS,
        Reason.TOO_SMALL, Reason.TOO_ELONGATED,
    },
}  # fmt: skip
"""What rows of a kind may be set aside for; a slow machine may time any of them out."""


def test_an_ingest_from_hostile_servers_accounts_for_every_row(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    paths = [f"{kind}/{1000 + i}" for kind in ATTACKS for i in range(EACH)]
    paths += [f"ok/{i}" for i in range(ROWS - len(paths))]
    rng.shuffle(paths)
    with Hostile() as server:
        with (tmp_path / "list.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["url", "caption"])
            rows.writerows((server.url(path), f"a picture of {path}") for path in paths)
        bounds = limits(
            connections=128, per_host=128, connect_s=10, read_s=10, total_s=12, attempts=1
        )
        source = {
            "kind": "urls", "files": [str(tmp_path / "list.csv")], "format": "csv", "url": "url",
            "caption": "caption", "split": "train", "download": bounds.model_dump(),
        }  # fmt: skip
        values = params(tmp_path, {"web": source})
        values["runtime"]["workers"] = 1
        values["ingest"]["min_yield"] = 0.0
        write_json(tmp_path / "params.yaml", values)
        command = [sys.executable, "-m", "pipelines.ingest", "toy"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        with process.stderr as pipe:
            said = pipe.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert used.ru_maxrss < 1.5 * 1024**2, "KiB of the largest process"
    root = tmp_path / values["paths"]["root"]
    table = pq.read_table(next((root / "quarantine").rglob("quarantine.parquet")))
    described = json.loads((root / "data/toy/dataset.json").read_text())
    assert sum(described["splits"].values()) + table.num_rows == ROWS
    why = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for path in paths:
        reasons[path.split("/")[0]][why.get(server.url(path), "")] += 1
    print(dict(reasons), used.ru_maxrss // 1024, "MiB")
    assert reasons.pop("ok").keys() <= {"", *STALLED}
    for kind, found in reasons.items():
        assert found.keys() <= ATTACKS[kind], (kind, found)


FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
POST = b"POST /v1/embed/images HTTP/1.1\r\nHost: localhost\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def pictures(*contents: bytes) -> bytes:
    """A request with pictures."""
    body = b"".join(PART + content + b"\r\n" for content in contents) + b"--x--\r\n"
    return POST + FORM + b"Content-Length: %d\r\n\r\n" % len(body) + body


REQUESTS: dict[str, tuple[bytes, bytes, float]] = {
    "nothing": (b"", b"", 1.0),
    "headers without end": (b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n" * 1000, 0.0),
    "a header line": (b"GET /healthz HTTP/1.1\r\nX-A: ", LONG, 0.0),
    "a path": (b"GET /", LONG, 0.0),
    "dripping headers": (b"GET /healthz HTTP/1.1\r\nX-A: ", b"b", 0.2),
    "a dripping body": (POST + FORM + b"Content-Length: 9000\r\n\r\n--x\r\n", b"b", 0.2),
    "a body without end": (
        POST + FORM + b"Transfer-Encoding: chunked\r\n\r\n",
        b"4\r\nxxxx\r\n",
        0,
    ),
    "a chunk's size": (POST + FORM + b"Transfer-Encoding: chunked\r\n\r\n1;", LONG, 0.0),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nxx", LONG, 0.0),
    "a flood of requests": (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100, 0.0),
    "a long boundary": (POST + FORM.replace(b"=x", b"=" + LONG[:9000]) + b"\r\n", LONG, 0.0),
    "odd names": (b"GET http://a..b/\xff%00 HTTP/1.1\r\nHost: \xff\r\n\r\n", LONG, 0.0),
    "scans": (pictures(*[BOMB, jpeg(64, (4096, 4096))] * 4), b"", 1.0),
    "bombs": (pictures(*(picture for picture, _ in HOSTILE.values())), b"", 1.0),
}
"""What clients send: first this, then that again and again, with so many seconds between."""


async def attack(port: int, over: asyncio.Event, first: bytes, rest: bytes, pause: float) -> None:
    """Be one client after the other, none of which reads more than it must."""
    while not over.is_set():
        writer = None
        try:
            async with asyncio.timeout(15):
                local = ("127.0.0.2", 0)  # another client than who asks how the server is
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
                writer.write(first)
                while not over.is_set() and not reader.at_eof():
                    writer.write(rest)
                    await writer.drain()
                    await asyncio.sleep(pause or 0.05)
        except OSError:  # refused, reset or out of time
            await asyncio.sleep(0.1)
        finally:
            if writer:
                writer.transport.abort()


async def under_attack(port: int, process: psutil.Process, image: bytes) -> int:
    """The most memory of a server in bytes, which answers while all that goes on."""
    over, most = asyncio.Event(), 0
    clients = [
        asyncio.create_task(attack(port, over, *request))
        for request in REQUESTS.values()
        for _ in range(4)
    ]
    options = {"base_url": f"http://127.0.0.1:{port}", "timeout": PATIENCE}
    apart = httpx.Limits(max_keepalive_connections=0)  # as who probes it
    async with httpx.AsyncClient(limits=apart, **options) as client:
        for _ in range(20):
            answer = await client.get("/healthz")
            assert answer.status_code == 200, answer.text
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.5)
        over.set()
        await asyncio.gather(*clients)
        for _ in range(PATIENCE):
            answer = await client.post("/v1/embed/images", files={"image": image})
            if answer.is_success:
                return most
            assert answer.status_code in (503, 504), answer.text
            await asyncio.sleep(1)
    raise AssertionError(answer.text)


def test_a_server_answers_while_clients_attack_it(tiny_export: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "albef.cli", "serve", str(tiny_export), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=file)
    try:
        wait_until(lambda: server.poll() is not None or "serving at" in log.read_text())
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", log.read_text())[0])
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        most = asyncio.run(under_attack(port, process, toy.picture(1)))
        print(before // MIB, most // MIB, "MiB")
        assert most - before < 700 * MIB, "MiB of bodies that may be held, and pictures"
    except httpx.HTTPError as error:
        raise AssertionError(f"{error!r} {server.poll()} {log.read_text()[-2000:]}") from error
    finally:
        server.terminate()
        server.wait()
    assert server.returncode == 0, log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
