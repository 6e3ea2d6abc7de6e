"""Latency of one client while another attacks the server: ``python -m benchmarks.attack EXPORT...``

The server has two tokens. The client with the first one asks for embeddings of a text, in a process
of its own. The attacker has the second one, or none, and does all of this from another address:

1. expressions about a large image and 100 boxes, to ``/v1/ground``
2. bodies of 16 MiB without their last byte
3. 1,000 idle connections, and 100 new ones a second
4. images that are slow to decode: a run-length encoded BMP, a GIF of many comments
5. a PNG of 150,000 empty chunks, to ``/v1/ground``
6. requests that smuggle others: an offer of another protocol, and chunks of a byte

Attackers are other machines in reality, so theirs has the lowest priority on the cores of this one;
with ``--nice 0`` it takes cores from the server.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import resource
import socket
import struct
import subprocess
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.load import Load, Request, run
from benchmarks.servers import serve

TOKENS = ("client-with-a-token", "attacker-with-a-token")
_HOST = "127.0.0.2"  # The attacker's address; all of 127.0.0.0/8 are this machine.
_IDLE, _NEW = 1000, 100


def main() -> None:
    """Print the client's latency without and with the attack, and what it cost the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("exports", nargs="+", type=Path, help="embeds texts; grounds expressions")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--nginx", action="store_true", help="behind nginx with deploy/nginx.conf")
    parser.add_argument("--nice", type=int, default=19, help="of the attacking process")
    parser.add_argument("--only", type=int, nargs="*", default=range(1, 7), help="attacks")
    options = parser.parse_args()
    os.environ["ALBEF_TOKENS"] = ",".join(TOKENS)
    more = [*map(str, options.exports[1:]), "--threads", "1"]
    more += ["--port", "8081"] if options.nginx else []  # as in the configuration
    requests = hostile_requests()
    with (
        nginx() if options.nginx else contextlib.nullcontext() as proxy,
        serve(options.exports[0], *more, token=TOKENS[0]) as server,
    ):
        port, process = proxy or server.port, psutil.Process(server.pid)
        print("| load | answers/s | median ms | p99 ms | failed | CPU s of the server | MiB |")
        print("|---|---|---|---|---|---|---|")
        for name, attacks in (("quiet", []), ("attacked", options.only), ("after", [])):
            before = sum(process.cpu_times()[:4])
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                loads = [load for kind in attacks for load in requests.get(kind, [])]
                seconds = options.seconds + 2
                nice = options.nice * bool(attacks)  # Else the client may get this process.
                attacking = pool.submit(attack, port, loads, 3 in attacks, seconds, nice)
                time.sleep(2 * bool(attacks))
                client = pool.submit(_ask, port, options.seconds).result()
                counts = attacking.result() if attacks else Counter()
            spent, peak = sum(process.cpu_times()[:4]) - before, process.memory_info().rss / 2**20
            print(f"| {name} | {client.cells()} | {spent:.1f} | {peak:.0f} |", flush=True)
            if counts:
                print(f"\nAnswers to the attacker: {dict(sorted(counts.items()))}\n")


@contextlib.contextmanager
def nginx() -> Iterator[int]:
    """Run nginx as shipped; yield its port."""
    configuration = Path(__file__).parents[1] / "deploy/nginx.conf"
    socket.create_server(("127.0.0.1", 8080)).close()  # Another one would be measured.
    with tempfile.TemporaryDirectory() as folder:
        command = ["nginx", "-c", str(configuration), "-p", folder, "-e", "stderr"]
        command += ["-g", "master_process off;"]  # Other users cannot write to the folder.
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                yield 8080
            finally:
                process.terminate()


def _ask(port: int, seconds: float) -> Load:
    request = Request("/v1/embed/texts", "application/json", [b'{"texts": ["a dog"]}'])
    return run(port, request, seconds, clients=1, token=TOKENS[0])


def attack(
    port: int, loads: list[tuple[bytes, int]], connects: bool, seconds: float, nice: int
) -> "Counter[str]":
    """Attack a server with requests of clients each; return the counts of its statuses."""
    os.nice(nice)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    answers: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def send(request: bytes, *, wait: float = seconds) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(min(wait, until - time.monotonic())):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(_HOST, 0)
                )
                try:
                    writer.write(request)
                    await writer.drain()
                    answers[(await reader.readline())[9:12].decode() or "closed"] += 1
                finally:
                    writer.close()

    async def repeat(request: bytes, clients: int) -> None:
        async def client() -> None:
            while time.monotonic() < until:
                await send(request)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def connect() -> None:
        idle = [asyncio.create_task(send(b"")) for _ in range(_IDLE)]
        while time.monotonic() < until:
            idle.append(asyncio.create_task(send(b"", wait=5)))
            await asyncio.sleep(1 / _NEW)
        await asyncio.gather(*idle)

    async def all_at_once() -> None:
        await asyncio.gather(*(repeat(*load) for load in loads), *([connect()] if connects else []))

    asyncio.run(all_at_once())
    return answers


def hostile_requests() -> dict[int, list[tuple[bytes, int]]]:
    """Return the requests of each attack, with the number of its clients."""
    return {
        1: [(_ground(_gray(4000)), 4)],
        2: [(_form(b"x" * (2**24 - 300))[:-1], 16)],
        4: [(_form(*[image] * 32), 2) for image in (_bmp(), _gif())],
        5: [(_ground(_chunks()), 2)],
        6: [(_smuggling(), 2), (_bytewise(), 2)],
    }


def _request(path: str, body: bytes, headers: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS[1]}\r\n"
    return f"{head}{headers}\r\n\r\n".encode() + body


def _form(*images: bytes, path: str = "/v1/embed/images", **fields: list[str]) -> bytes:
    part = '--part\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    file = b'--part\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n'
    texts = [part.format(name, value) for name, values in fields.items() for value in values]
    body = b"".join(file % image for image in images) + "".join(texts).encode() + b"--part--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=part"
    return _request(path, body, f"{kind}\r\nContent-Length: {len(body)}")


def _ground(image: bytes) -> bytes:
    boxes = json.dumps([[0, 0, 4000, 4000]] * 100)
    texts = [f"the dog beside {i}" for i in range(32)]
    return _form(image, path="/v1/ground", expression=texts, boxes=[boxes])


def _gray(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def _chunks() -> bytes:
    image = _gray(8)
    kind = b"aaAa"
    empty = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return image[:33] + empty * 150_000 + image[33:]


def _bmp() -> bytes:
    """4000 x 4000 pixels in runs that end each line at once."""
    runs = b"\0\0" * 1000
    head = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(head) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + bytes(1024) + runs


def _gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    image = buffer.getvalue()
    start = 13 + 3 * 2 ** ((image[10] & 7) + 1)
    return image[:start] + b"!\xfe\0" * 160_000 + image[start:]


def _smuggling() -> bytes:
    hidden = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n"
    offer = "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: h2c"
    return _request("/v1/embed/texts", hidden, f"{offer}\r\nContent-Length: {len(hidden)}")


def _bytewise() -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=part\r\nTransfer-Encoding: chunked"
    return _request("/v1/embed/images", b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n", kind)


if __name__ == "__main__":
    main()
