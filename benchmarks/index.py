"""What a loader takes to start, and holds, over an index of many millions of rows.

``python -m benchmarks.index`` writes such an index, with a record's usual columns and one picture
that all rows are of, and prints a table in Markdown. Private memory is what a process shares with
no other; workers are forked and share what the first one has read.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from albef.data.record import Record
from albef.data.shards import Shards
from albef.loading.loader import Loader
from albef.loading.pipeline import Reading
from albef.loading.reading import Batch
from benchmarks.timing import machine
from tests.data import toy

GROUP = 10**6
"""Rows written at a time."""
MICRO = 64
_MAPPED = """
import os, resource, sys
from pathlib import Path
from albef.data.shards import Shards
from benchmarks.index import _private_mib
folder, at = map(Path, sys.argv[1:])
split = Shards(folder, "train", mapped=at)
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(_private_mib(os.getpid()), most)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.index")
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "many"
        _write(folder, options.rows, options.shards)
        size = (folder / "index.parquet").stat().st_size
        mapped = []
        for _ in range(2):  # written, mapped
            began = time.perf_counter()
            again = subprocess.run(
                [sys.executable, "-c", _MAPPED, folder, name], stdout=subprocess.PIPE, check=True
            )
            mapped.append((time.perf_counter() - began, *map(float, again.stdout.split())))
        (columns,) = Path(name).glob("*.arrow")
        columns.unlink()
        began = time.perf_counter()
        split = Shards(folder, "train")
        read, own = time.perf_counter() - began, _private_mib(os.getpid())
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        loader = Loader(
            split, _collate, 8 * MICRO, MICRO, 0, options.workers, reading=Reading(window=100)
        )
        stop = loader.steps_per_epoch
        held = []
        for start in (0, stop - 20):  # of one epoch, and from one into the next
            began = time.perf_counter()
            for step, _ in enumerate(loader.batches(start, start + 40)):
                if step == 0:
                    first = time.perf_counter() - began
                if step == 30:
                    children = psutil.Process().children()
                    held.append([_private_mib(child.pid) for child in children])
    print(f"{machine()}\n")
    print(f"{options.rows} rows in {options.shards} shards, {size / 2**20:.0f} MiB as Parquet\n")
    print("| | |\n|---|---|")
    print(f"| the index is read | {read:.1f} s, {own:.0f} MiB, at most {most:.0f} |")
    for what, (seconds, mib, most) in zip(("first", "other"), mapped, strict=True):
        memory = f"{mib:.0f} MiB, at most {most:.0f}"
        print(f"| the same of several processes, the {what} one | {seconds:.1f} s, {memory} |")
    print(f"| from there to the first batch, {options.workers} workers | {first:.1f} s |")
    for what, each in zip(("of the first epoch", "of the next one"), held, strict=True):
        print(f"| private memory of a worker, {what} | {min(each):.0f} to {max(each):.0f} MiB |")


def _collate(records: Sequence[Record], rng: np.random.Generator) -> Batch:
    return {"id": torch.tensor([record.image_id for record in records])}


def _private_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().uss) / 2**20


def _write(folder: Path, rows: int, shards: int) -> None:
    """An index whose rows are all of one picture, which each of the shards holds."""
    toy.write(folder, [toy.record(0)])
    index, about = folder / "index.parquet", json.loads((folder / "dataset.json").read_text())
    one = pq.read_table(index)
    (tar,) = folder.rglob("*.tar")
    places = np.arange(shards)
    names = pa.array([f"{tar.stem}-{place:05d}.tar" for place in places])
    for shard in names.to_pylist():
        os.link(tar, tar.with_name(shard))
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(index, one.schema) as writer:
        for start in range(0, rows, GROUP):
            count = min(GROUP, rows - start)
            table = one.take(pa.array(np.zeros(count, np.int64)))
            numbers = pa.array(np.arange(start, start + count))
            digits = pc.cast(pa.array(rng.integers(0, 2**62, count)), pa.string())
            texts = pc.binary_join_element_wise("a caption of about ten words number", digits, " ")
            captions = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), texts)
            chosen = names.take(pa.array(np.arange(start, start + count) * shards // rows))
            own = {"captions": captions, "image_id": numbers, "shard": chosen}
            for column, values in own.items():
                place = table.schema.get_field_index(column)
                field = table.schema.field(place)
                table = table.set_column(place, field, values.cast(field.type))
            writer.write_table(table)
    about["splits"]["train"] = rows
    (folder / "dataset.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
