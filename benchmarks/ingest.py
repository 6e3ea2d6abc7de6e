"""How fast images become shards, what a hundredth more takes, and memory by number of rows.

python -m benchmarks.ingest [--images N] [--grown N] [--rows N ...] [--rounds N]
python -m benchmarks.ingest --engines N [--rounds N]     # on a node of the cluster RAY_ADDRESS
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import simplejpeg

from albef.config import validate
from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest import duplicates, shard_writer
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig
from albef.ingest.pool import NumberedRow, prepare_rows
from albef.ingest.prepare import Fingerprint, Prepared, Rules
from albef.ingest.sources import tables
from albef.io import file_digest
from albef.layout import ENVIRONMENT
from benchmarks.pictures import blurred, photo
from benchmarks.timing import machine, spread
from pipelines import ingest
from pipelines.stage import Stage

LIMITS = {
    "heldout": ["none"], "max_megabytes": 16, "max_megapixels": 64, "min_side": 16,
    "max_aspect_ratio": 20.0, "max_caption_chars": 1000, "format": "jpeg", "quality": 90,
    "near_distance": 4, "min_yield": 0.0,
}  # fmt: skip
FOLDER = {
    "data_seed": 1, "seed": 1, "paths": {"root": "products", "models": "models"},
    "ingest": LIMITS, "runtime": {"workers": 0, "scratch": "scratch"},
    "datasets": {"grown": {
        "sources": {"all": {"kind": "folder", "path": "images", "split": "train"}},
        "longest_side": 256, "shard_mb": 8,
    }},
}  # fmt: skip
BLOCK = 1000
MIB = 2**20


def main() -> None:
    """Print three tables, or that of the engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--grown", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 120_000, 240_000])
    parser.add_argument("--engines", type=int, help="images that each engine prepares")
    options = parser.parse_args()
    print(machine(), "\n")
    if options.engines:
        _engines(options.engines, options.rounds)
        return
    _speed(options.images, options.rounds)
    _growth(options.grown, options.rounds)
    _memory(options.rows)


def _speed(images: int, rounds: int) -> None:
    photos = [
        bytes(simplejpeg.encode_jpeg(photo(np.random.default_rng(seed)), 90)) for seed in range(64)
    ]
    size = statistics.mean(map(len, photos)) / 1024
    rules = Rules(validate(IngestConfig, LIMITS, where="benchmark"), 256)

    def rows() -> Iterator[NumberedRow]:
        for i, image in zip(range(images), itertools.cycle(photos), strict=False):
            yield i, Record(f"{i:07d}", image, ("a caption of a photograph",), i, "train", "a")

    shares, walls = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            before, start = time.process_time(), time.perf_counter()
            _ingest(Path(folder), rows(), rules)
            shares.append(images / (time.process_time() - before))
            walls.append(images / (time.perf_counter() - start))
    print(
        f"{images} JPEGs of 640 x 480 pixels, {size:.0f} KiB in the mean, to shards of 256 px, "
        f"in one process; medians of {rounds}\n\n"
        "| images/s of processor time | images/s of the clock |\n|---|---|\n"
        f"| {spread(shares, 0)} | {spread(walls, 0)} |\n"
    )


def _ingest(folder: Path, rows: Iterator[NumberedRow], rules: Rules) -> None:
    """The steps of the stage but for its sources."""
    blocks = Blocks(folder / "blocks")
    _fill(blocks, prepare_rows(rows, rules, 0))
    _compare(blocks)
    _shards(folder / "data", blocks)


def _fill(blocks: Blocks, rows: Iterator[Prepared | Rejection]) -> None:
    while batch := list(itertools.islice(rows, BLOCK)):
        blocks.write(batch)


def _compare(blocks: Blocks) -> None:
    for _ in duplicates.repeated_keys(blocks):
        pass
    images = duplicates.read_fingerprints(blocks)
    for _ in duplicates.contaminated(images, duplicates.HELDOUT.empty_table(), 4):
        pass
    duplicates.repeated_images(images, set(), 4)


def _shards(folder: Path, blocks: Blocks) -> None:
    shard_writer.write(folder, "data", blocks.records(), shard_mb=8, licences=[], sources=[])


def _growth(images: int, rounds: int) -> None:
    """The stage over a folder, and over the same with a hundredth more."""
    add = _add_photographs()

    def run() -> tuple[float, float]:
        before, start = time.process_time(), time.perf_counter()
        ingest.run(Stage("ingest", "grown"))
        return time.process_time() - before, time.perf_counter() - start

    names = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(images + images // 100)]
    more = {
        "none": [],
        "1 %, after the others": [f"x{i:07d}" for i in range(images // 100)],
        "1 %, in between": names[images:],
    }
    shares: dict[str, list[tuple[float, float]]] = {kind: [] for kind in more}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("params.yaml").write_text(json.dumps(FOLDER))
            add(names[:images])
            whole = run()
            for kind, new in more.items():
                add(new)
                grown = run()
                shares[kind].append((100 * grown[0] / whole[0], 100 * grown[1] / whole[1]))
    print(
        f"`ingest@NAME` over {images} such JPEGs that differ, a text beside each, as shares of "
        f"what it takes from nothing; medians of {rounds}\n\n"
        "| new images | processor time | clock |\n|---|---|---|"
    )
    for kind, of in shares.items():
        parts = (spread(each, 1, " %") for each in zip(*of, strict=True))
        print(f"| {kind} | {' | '.join(parts)} |")
    print()


def _add_photographs() -> Callable[[Iterable[str]], None]:
    """What writes photographs of these names, with a text beside each, to the folder of FOLDER."""
    rng = np.random.default_rng(0)
    canvas = np.asarray(blurred(rng, (3200, 2400), (80, 60)), np.int16)
    noise = rng.normal(0, 6, canvas.shape).astype(np.int16)

    def cut() -> bytes:
        pixels = np.zeros((480, 640, 3), np.int16)
        for of in (canvas, noise):
            top, left = rng.integers(0, 2400 - 480), rng.integers(0, 3200 - 640)
            pixels += of[top : top + 480, left : left + 640]
        pixels = np.ascontiguousarray(pixels.clip(0, 255), np.uint8)
        return bytes(simplejpeg.encode_jpeg(pixels, 90))

    def add(names: Iterable[str]) -> None:
        Path("images").mkdir(exist_ok=True)
        for name in names:
            Path("images", f"{name}.jpg").write_bytes(cut())
            Path("images", f"{name}.txt").write_text(f"the photograph {name}")

    return add


def _engines(images: int, rounds: int) -> None:
    """The stage over a folder by processes of this machine and by a cluster."""
    workers = os.cpu_count() or 1
    kinds = {
        "one process": {"WORKERS": "0"},
        f"{workers} processes": {"WORKERS": f"{workers}"},
        "ray": {"ENGINE": "ray"},
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    digests = set()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("params.yaml").write_text(json.dumps(FOLDER))
        _add_photographs()(f"{i:07d}" for i in range(images))
        for _, (kind, values) in itertools.product(range(rounds), kinds.items()):
            shutil.rmtree("scratch", ignore_errors=True)
            named = {f"{ENVIRONMENT}{name}": value for name, value in values.items()}
            command = [sys.executable, "-m", "pipelines.ingest", "grown"]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | named
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds[kind].append(time.perf_counter() - start)
            digests.add(file_digest(Path("products/data/grown/index.parquet")))
    assert len(digests) == 1
    print(f"{images} such JPEGs to shards by `ingest@NAME`, a process of its own; equal bytes\n")
    print("| engine | s |\n|---|---|")
    for kind, taken in seconds.items():
        print(f"| {kind} | {spread(taken, 1)} |")


def _memory(counts: list[int]) -> None:
    """Each number of rows in a process of its own; an image has 600 bytes, so that rows count."""
    print(
        "| rows | MiB while a list is read | rows are prepared | compared | written | s |\n"
        "|---|---|---|---|---|---|"
    )
    peaks = []
    for count in counts:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            own, seconds = pool.submit(_peaks, count).result()
        peaks.append(own)
        print(f"| {count} | {' | '.join(f'{x / MIB:.0f}' for x in own)} | {seconds:.0f} |")
    slopes = [
        np.polyfit(counts, [peak[step] for peak in peaks], 1)[0] if len(counts) > 1 else 0.0
        for step in range(4)
    ]
    parts = ", ".join(f"{slope:.0f}" for slope in slopes)
    most = max(peaks[-1]) + max(slopes) * (10_000_000 - counts[-1])
    print(f"\nbytes a row: {parts}; ten million rows would take {most / 2**30:.2f} GiB")


def _peaks(count: int) -> tuple[list[int], float]:
    """The most memory in each step, page cache of files left out; and seconds of all."""
    image = np.random.default_rng(0).bytes(600)
    jpeg = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)) + image
    rng = np.random.default_rng(1)
    looks = rng.integers(0, 2**64, count, np.uint64)
    start = time.perf_counter()

    def rows() -> Iterator[Prepared]:
        for i in range(count):
            record = Record(f"{i:08d}", jpeg, (f"a caption of image {i}",), i, "train", "a")
            own = Fingerprint(hashlib.sha256(b"%d" % i).digest()[:16], int(looks[i]))
            yield Prepared(record, i + 1, f"{i}.jpg", (own,))

    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        blocks = Blocks(folder / "blocks")

        def listed() -> None:
            path = folder / "list.tsv"
            with path.open("w") as file:
                rows = (f"a caption of image {i}\thttps://a.test/{i}\n" for i in range(count))
                file.writelines(rows)
            header = ["caption", "url"]
            assert sum(1 for _ in tables.read(path, "tsv", header, header)) == count

        steps: tuple[Callable[[], None], ...] = (
            listed,
            lambda: _fill(blocks, rows()),
            lambda: _compare(blocks),
            lambda: _shards(folder / "data", blocks),
        )
        for step in steps:
            peaks.append(_peak(step) - looks.nbytes)
    return peaks, time.perf_counter() - start


def _peak(step: Callable[[], None]) -> int:
    """The most private memory of this process during a step, in bytes."""
    process, over, seen = psutil.Process(), threading.Event(), [0]

    def look() -> None:
        while not over.wait(0.05):
            info = process.memory_info()
            seen.append(info.rss - getattr(info, "shared", 0))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    step()
    over.set()
    thread.join()
    return max(seen)


if __name__ == "__main__":
    main()
