"""A hostile web: servers that mislead, stall and flood an ingest, and clients that do so to a
server; every row is accounted for, the server answers, and memory stays bounded."""

import asyncio
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest
from benchmarks.attack import TOKENS, attack, hostile_requests

from albef.data.rejection import Reason
from albef.io import write_json
from benchmarks.servers import serve
from tests.chaos.conftest import SEED
from tests.chaos.stages import ROOT
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
    *("https://127.0.0.1:PORT/ok/1", "http://0.0.0.0:PORT/ok/1", f"/{'a' * 9000}"),
    *("http://10.0.0.1:9/", "http://127.0.0.1:-1/", "gopher://127.0.0.1:PORT/", "http://.:PORT/"),
    "http://\u2100/",
)
"""Where redirects lead: no name among them is looked up anywhere else."""


class Hostile(Server):
    """Answers ``/WHAT/N`` in ways that no server should; each is asked of some rows."""

    async def odd(self, path: str, writer: Any) -> Response:
        name = NAMES[int(path.split("/")[2]) % len(NAMES)]
        return 302, {"Location": name.replace("PORT", str(self.port))}, b""

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
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 999:
            if not writer.is_closing():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.3)

    async def bomb(self, path: str, writer: Any) -> Response:
        bad = [picture for name, (picture, _) in HOSTILE.items() if "slow to decode" not in name]
        return 200, {}, [BOMB, *bad][int(path.split("/")[2]) % (1 + len(bad))]


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


GET = b"GET /healthz HTTP/1.1\r\n"
FLOODS_OF_BYTES = [
    (b"GET /" + LONG * 20, 4),
    (GET + b"X-A: " + LONG * 20, 4),
    (GET + b"X-A: b\r\n" * 200_000, 4),
    ((GET + b"Host: localhost\r\n\r\n") * 10_000, 4),
    (b"POST /v1/embed/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
     b"Content-Length: 3\r\n\r\nxx" + LONG, 4),
]  # fmt: skip
"""Requests beside those of the benchmark, and the clients that send each."""


def test_a_server_answers_while_clients_attack_it(
    tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALBEF_TOKENS", ",".join(TOKENS))
    loads = [load for some in hostile_requests().values() for load in some] + FLOODS_OF_BYTES
    with (
        serve(tiny_export, "--threads", "1", token=TOKENS[0]) as server,
        httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}",
            headers={"Authorization": f"Bearer {TOKENS[0]}"},
            limits=httpx.Limits(max_keepalive_connections=0),  # as who probes it
            timeout=PATIENCE,
        ) as client,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        process = psutil.Process(server.pid)
        before = most = process.memory_info().rss
        attacking = pool.submit(attack, server.port, loads, False, 12, 0)
        while not attacking.done():
            assert client.get("/healthz").status_code == 200
            most = max(most, process.memory_info().rss)
            time.sleep(0.5)
        print(attacking.result(), before // MIB, most // MIB, "MiB")
        assert most - before < 700 * MIB, "MiB of bodies that may be held, and pictures"
        wait_until(lambda: client.post("/v1/embed/texts", json={"texts": ["a"]}).is_success)
