"""Fuzz tests of every parser of outside bytes: a result or a refusal, in bounded time and memory.

Each target has whole inputs, which are damaged, and hostile ones, which are tried as they are.
``ALBEF_FUZZ=20000 pytest tests/test_fuzz.py`` tries so many inputs of each target.
"""

import contextlib
import csv
import io
import json
import os
import signal
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from albef.config import ParamsError, read_yaml
from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.data.rejection import Rejection, RowError
from albef.ingest.cleaning import clean
from albef.ingest.derive import derive
from albef.ingest.prepare import Prepared, prepare
from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.serving.indexes.index import About, Index
from tests.data import toy
from tests.ingest.bad_rows import CAPTION
from tests.ingest.sources.reading import read, write_tar
from tests.ingest.sources.test_webdataset import sample
from tests.ingest.test_hostile import ANNOTATIONS, KARPATHY, settled
from tests.ingest.test_prepare import ROWS, rules
from tests.serving.running import Running, running

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd headers
CPU_S, MIB = 10, 512
"""Bounds of one input: CPU seconds of all threads, and growth of the process's memory."""
Choose = Callable[[list[Any]], Any]
fuzzed = settings(
    max_examples=int(os.environ.get("ALBEF_FUZZ", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize="ALBEF_FUZZ" not in os.environ,
)


class Target(NamedTuple):
    """A parser.

    Attributes:
        parse: parses a file in a folder with the images ``0.jpg`` and ``a.jpg`` and checks the
            result; it takes options from a function.
        whole: inputs that are damaged before they are parsed.
        hostile: inputs that are parsed as they are.
    """

    parse: Callable[[Path, Choose], object]
    whole: list[bytes]
    hostile: list[bytes]

    def run(self, held: bytes, choose: Choose) -> None:
        with tempfile.TemporaryDirectory() as name, bounded():
            path = Path(name, "input")
            path.write_bytes(held)
            for image in ("0.jpg", "a.jpg"):
                Path(name, image).write_bytes(IMAGES[0])
            self.parse(path, choose)


def memory_mib(name: str) -> float:
    [line] = (it for it in Path("/proc/self/status").read_text().splitlines() if name in it)
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail if the block takes more CPU time or memory than an input may take."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {CPU_S} CPU seconds")

    Path("/proc/self/clear_refs").write_text("5")  # The peak starts from here.
    before, start = memory_mib("VmRSS"), time.process_time()
    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    assert time.process_time() - start < CPU_S
    assert memory_mib("VmHWM") - before < MIB


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """An input with bits flipped, or pieces inserted, removed or repeated, or cut off."""
    held = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        if not held:
            break
        at = draw(st.integers(0, len(held) - 1))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["bit", "bytes", "insert", "remove", "double", "cut"])):
            case "bit":
                held[at] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                piece = draw(st.binary(min_size=1, max_size=16))
                held[at : at + len(piece)] = piece
            case "insert":
                held[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "remove":
                del held[at : at + length]
            case "double":
                held[at:at] = held[at : at + length]
            case "cut":
                del held[at:]
    return bytes(held)


def check_written(rows: Iterable[Record | Rejection]) -> None:
    """Check that rows, whatever they hold, can be written to shards and quarantine."""
    every = list(enumerate(rows, 1))
    with tempfile.TemporaryDirectory() as name:
        kept, aside = settled(Path(name), every)
    assert len(kept) + aside == len(every)
    assert all(record.image for record in kept)


def rows_of(kind: str, path: Path, suffix: str, **values: Any) -> None:
    path = path.rename(path.with_suffix(suffix))
    files = "file" if kind == "karpathy" else "files"
    of_splits = {"train": [str(path)]}
    given = {"table": [str(path)], "karpathy": str(path)}.get(kind, of_splits)
    rows: Iterable[Record | Rejection] = ()
    with contextlib.suppress(ParamsError):
        rows = read(kind, **{files: given}, **values)
    check_written(rows)
    with contextlib.suppress(ParamsError):
        derive(path, "s")


def image(path: Path, choose: Choose) -> None:
    longest_side = choose([None, 16])
    record = toy.record(1, image=path.read_bytes())
    made = prepare(1, record, rules(longest_side, near_distance=2))
    if isinstance(made, Prepared):
        assert max(decode(made.record.image).size) <= (longest_side or 2**12)
    else:
        assert made.detail
        assert not made.thumbnail or decode(made.thumbnail)


def tar(path: Path, choose: Choose) -> None:
    rows_of("webdataset", path, ".tar", caption=choose(["txt", "json.caption"]))


def table(path: Path, choose: Choose) -> None:
    form, header = choose(["csv", "tsv"]), choose([None, ["url", "text"]])
    values = {"image": "url", "images": str(path.parent), "caption": "text", "keep": ["url"]}
    rows_of("table", path, f".{form}", format=form, header=header, **values)


def parquet(path: Path, _: Choose) -> None:
    rows_of("parquet", path, ".parquet", image="image", captions=["text"])


def json_file(path: Path, choose: Choose) -> None:
    form, images = choose([*ANNOTATIONS, "karpathy"]), str(path.parent)
    if form == "karpathy":
        rows_of("karpathy", path, ".json", images=images, splits=["train", "val", "test"])
    else:
        rows_of("annotations", path, ".json", images=images, format=form)


def caption(path: Path, _: Choose) -> None:
    with contextlib.suppress(RowError):
        text = clean(path.read_bytes().decode(errors="surrogateescape"))
        assert not {unicodedata.category(it) for it in text} & {"Cc", "Cs", "Zl", "Zp"}


def yaml_file(path: Path, _: Choose) -> None:
    with contextlib.suppress(ParamsError):
        read_yaml(path)


def export_manifest(path: Path, _: Choose) -> None:
    path.rename(path.with_name(manifest.NAME))
    with contextlib.suppress(ExportError):
        manifest.check(path.parent, manifest.read(path.parent), "float32")


def index_file(path: Path, _: Choose) -> None:
    with contextlib.suppress(ValueError):
        Index(path).close()


IMAGES = [row.image for row in ROWS.values() if row.expected == CAPTION and len(row.image) < 5000]


def shard(**more: Any) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        parts = [*sample(0, **more), *sample(1, **more), *sample(2, **more)]
        return write_tar(Path(name) / "a.tar", *parts).read_bytes()


def text_table(delimiter: str) -> bytes:
    rows = [["url", "text"], *([f"{i}.jpg", f'a "dog" {i}\n'] for i in range(4))]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue().encode()


def parquet_table() -> bytes:
    sink = pa.BufferOutputStream()
    images = [{"bytes": image, "path": "a"} for image in IMAGES[:4]]
    pq.write_table(pa.table({"image": images, "text": list("abcd")}), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def index() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "a.sqlite")
        Index(path, About("zoo", "space", "retrieval", 16)).close()
        return path.read_bytes()


ANNOTATED = [json.dumps([row] * 2).encode() for row in ANNOTATIONS.values()]
DEEP = [b"[" * 10**5, b'{"a":' * 10**5, b"[1e999999]", b"[" + b"9" * 5000]
TARGETS = {
    "image": Target(image, IMAGES, [row.image for row in ROWS.values()]),
    "tar": Target(tar, [shard(), shard(caption=["a", "b"])], [b"", bytes(2**20)]),
    "table": Target(table, [text_table(","), text_table("\t")], [b"", b'"' * 10**5, b"," * 10**5]),
    "parquet": Target(parquet, [parquet_table()], [b"", b"PAR1" * 3]),
    "json": Target(
        json_file, [*ANNOTATED, json.dumps({"images": [KARPATHY]}).encode()], [b"", *DEEP]
    ),
    "caption": Target(
        caption,
        [row.caption.encode(errors="surrogatepass") for row in ROWS.values() if row.caption],
        [b"&" + part * 12_000 for part in (b"amp;", b"#38;", "ａｍｐ；".encode(), b"<b")],
    ),
    "yaml": Target(
        yaml_file,
        [b"a: &a {b: 1e-4, c: [x, 'y', null]}\nd:\n  - |\n    z\n  - {<<: *a}\n"],
        [b"a: " + b"[" * 10**4, b"\xff", b"a: &a [*a]", b"a: &a {b: 1}\n<<: *a" * 9],
    ),
    "index": Target(index_file, [index()], [b"", b"SQLite format 3\0" + bytes(2**16)]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_inputs_are_parsed_or_refused_within_bounds(name: str) -> None:
    target = TARGETS[name]
    for held in (*target.whole, *target.hostile):
        target.run(held, lambda options: options[0])


@pytest.mark.parametrize("name", TARGETS)
@fuzzed
@given(st.data())
def test_damaged_inputs_are_parsed_or_refused_within_bounds(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    held = data.draw(damaged(target.whole) | st.binary(max_size=200))
    target.run(held, lambda options: data.draw(st.sampled_from(options)))


@fuzzed
@given(data=st.data())
def test_damaged_manifests_are_read_or_refused_within_bounds(
    tiny_export: Path, data: st.DataObject
) -> None:
    target = Target(export_manifest, [(tiny_export / manifest.NAME).read_bytes()], [])
    target.run(data.draw(damaged(target.whole)), lambda options: options[0])


@pytest.fixture(scope="module")
def server(tiny_export: Path) -> Iterator[Running]:
    with running([tiny_export]) as server:
        yield server


FORM = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n%s\r\n--x--\r\n'
BODIES = {
    "/v1/embed/images": ("multipart/form-data; boundary=x", [FORM % image for image in IMAGES]),
    "/v1/embed/texts": ("application/json", [b'{"texts": ["a dog", "two"]}']),
}


@pytest.mark.parametrize("path", BODIES)
@fuzzed
@given(data=st.data())
def test_damaged_bodies_are_answered_within_bounds(
    server: Running, path: str, data: st.DataObject
) -> None:
    kind, whole = BODIES[path]
    held = data.draw(damaged(whole) | st.sampled_from(DEEP))
    with bounded():
        answer = server.client.post(path, content=held, headers={"content-type": kind})
    assert answer.status_code in (200, 400, 413, 422)
