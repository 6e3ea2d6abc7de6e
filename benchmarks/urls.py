"""Downloading small pictures from a server on this machine, in a process of its own.

``python -m benchmarks.urls`` prints a table in Markdown: the source ``urls`` as ingest reads it,
from its first request to its last record, and once more from what it kept. The server answers each
path with one of a hundred JPEGs out of memory.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from albef.data.record import Record
from albef.ingest.download.limits import Limits
from albef.ingest.sources import urls
from benchmarks.pictures import blurred, jpeg
from benchmarks.timing import machine

SIDE, PICTURES = 128, 100
LIMITS = Limits(
    user_agent="albef-benchmark", connections=64, per_host=64, connect_s=10, read_s=10, total_s=30,
    attempts=3, backoff_s=1, max_wait_s=60, give_up_after=0, redirects=3, max_mb=1,
    allow_loopback=True,
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.urls")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds, after one warm-up")
    options = parser.parse_args()
    pictures = _pictures()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_serve, args=(there, pictures), daemon=True)
    server.start()
    port = here.recv()
    first, again = [], []
    for turn in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            source = _list(Path(name), port, options.images)
            times = [_read(source, Path(name), options.images) for _ in range(2)]
        if turn:
            first.append(times[0])
            again.append(times[1])
    server.terminate()
    server.join()
    size = statistics.mean(map(len, pictures)) / 1024
    print(f"{machine()}; server and client share the cores, medians of {options.rounds}\n")
    print(f"{options.images} JPEGs of {SIDE} x {SIDE} pixels, {size:.1f} KiB in the mean\n")
    print("| | images/s |\n|---|---|")
    print(f"| downloaded | {options.images / statistics.median(first):.0f} |")
    print(f"| from what was kept | {options.images / statistics.median(again):.0f} |")


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [jpeg(blurred(rng, (SIDE, SIDE), (12, 12)), 85) for _ in range(PICTURES)]


def _list(folder: Path, port: int, count: int) -> urls.Config:
    lines = [f"picture {i}\thttp://127.0.0.1:{port}/{i}.jpg\n" for i in range(count)]
    (folder / "list.tsv").write_text("".join(lines))
    return urls.Config(
        kind="urls", files=[str(folder / "list.tsv")], format="tsv", header=["caption", "url"],
        url="url", caption="caption", keep=[], split="train", download=LIMITS,
    )  # fmt: skip


def _read(source: urls.Config, folder: Path, count: int) -> float:
    start = time.perf_counter()
    rows = sum(isinstance(row, Record) for row in urls.records(source, 0, folder / "scratch"))
    if rows != count:
        raise SystemExit(f"{count - rows} of {count} pictures did not come")
    return time.perf_counter() - start


def _serve(told: Connection, pictures: Sequence[bytes]) -> None:
    """Answer every GET, on a port that is told."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    answers = [head % len(own) + own for own in pictures]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while asked := await reader.readuntil(b"\r\n\r\n"):
                number = int(asked.split(b" ", 2)[1][1:].partition(b".")[0])
                writer.write(answers[number % len(answers)])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
