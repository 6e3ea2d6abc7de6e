"""A hostile web: servers that mislead, stall and flood an ingest; every row is accounted for, and
memory stays bounded."""

import asyncio
import csv
import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from albef.data.rejection import Reason
from albef.io import write_json
from tests.chaos.conftest import SEED
from tests.chaos.stages import ROOT
from tests.data import toy
from tests.data.test_image_decoding import jpeg
from tests.ingest.download.server import Response, Server
from tests.ingest.download.test_client import limits
from tests.pipelines.test_ingest import params
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
