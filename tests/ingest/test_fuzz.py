"""Whatever stands in files and pictures: a record, a refusal, or a sentence on the whole; for odd
values of rows see :mod:`tests.ingest.test_hostile`.

``ALBEF_FUZZ=20000 pytest tests/ingest/test_fuzz.py`` tries so many of each.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from albef.config import ParamsError
from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.derive import derive
from albef.ingest.prepare import Prepared, prepare
from albef.ingest.sources import kind_of
from tests.data import toy
from tests.ingest.bad_rows import CAPTION
from tests.ingest.sources.reading import config_of, read, write_tar
from tests.ingest.sources.test_webdataset import sample
from tests.ingest.test_hostile import ANNOTATIONS, KARPATHY, settled
from tests.ingest.test_prepare import ROWS, rules

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd headers
SOME = int(os.environ.get("ALBEF_FUZZ", "40"))
fuzzed = settings(
    max_examples=SOME,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize="ALBEF_FUZZ" not in os.environ,
)


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of some files with bits turned, pieces put in, taken out or doubled, or its end lost."""
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


def accounted(rows: Iterable[Record | Rejection]) -> None:
    """Take rows as far as shards and quarantine: whatever they hold, they are written."""
    every = list(enumerate(rows, 1))
    with tempfile.TemporaryDirectory() as name:
        kept, aside = settled(Path(name), every)
    assert len(kept) + aside == len(every)
    assert all(record.image for record in kept)


def said(read: Callable[[], Any]) -> Any:
    """What is read; None where the whole is refused in a sentence."""
    try:
        return read()
    except ParamsError:
        return None


PICTURES = [row.image for row in ROWS.values() if row.expected == CAPTION and len(row.image) < 5000]
STARTS = [image[:size] for image in PICTURES for size in (4, 12, 40)]


@fuzzed
@given(damaged(PICTURES) | st.tuples(st.sampled_from(STARTS), st.binary()).map(b"".join))
def test_images(image: bytes) -> None:
    for longest_side in (None, 16):
        made = prepare(1, toy.record(1, image=image), rules(longest_side, near_distance=2))
        if isinstance(made, Prepared):
            assert max(decode(made.record.image).size) <= (longest_side or 2**12)
        else:
            assert made.detail
            assert not made.thumbnail or decode(made.thumbnail)


def shard(**more: Any) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        parts = [*sample(0, **more), *sample(1, **more), *sample(2, **more)]
        return write_tar(Path(name) / "a.tar", *parts).read_bytes()


@fuzzed
@given(damaged([shard(), shard(caption=["a", "b"])]), st.sampled_from(["txt", "json.caption"]))
def test_shards(held: bytes, caption: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.tar").write_bytes(held)
        files = {"train": [f"{name}/a.tar"]}
        rows = said(lambda: read("webdataset", files=files, caption=caption))
    accounted(rows or ())


def table(form: str) -> bytes:
    rows = [["url", "text"], *([f"{i}.jpg", f'a "dog" {i}\n'] for i in range(4))]
    file = io.StringIO()
    csv.writer(file, delimiter="\t" if form == "tsv" else ",").writerows(rows)
    return file.getvalue().encode()


@fuzzed
@given(st.data(), st.sampled_from(["csv", "tsv"]), st.booleans())
def test_tables(data: st.DataObject, form: Any, titled: bool) -> None:
    held = data.draw(damaged([table(form)]) | st.binary(max_size=200))
    header = None if titled else ["url", "text"]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"list.{form}"
        path.write_bytes(held)
        (Path(name) / "0.jpg").write_bytes(PICTURES[0])
        values = {"image": "url", "images": name, "caption": "text", "keep": ["url"]}
        rows = said(lambda: read("table", files=[str(path)], format=form, header=header, **values))
        said(lambda: derive(path, "s"))
    accounted(rows or ())


def pictures_in_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    images = [{"bytes": image, "path": "a"} for image in PICTURES[:4]]
    pq.write_table(pa.table({"image": images, "text": list("abcd")}), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


@fuzzed
@given(damaged([pictures_in_parquet()]))
def test_parquet(held: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.parquet"
        path.write_bytes(held)
        files = {"train": [str(path)]}
        rows = said(lambda: read("parquet", files=files, image="image", captions=["text"]))
        said(lambda: derive(path, "s"))
    accounted(rows or ())


@fuzzed
@given(
    damaged([json.dumps([row] * 2).encode() for row in ANNOTATIONS.values()])
    | damaged([json.dumps({"images": [KARPATHY]}).encode()])
    | st.sampled_from([b"", b"[" * 10**5, b'{"a":' * 10**5, b"[1e999999]", b"[" + b"9" * 5000]),
    st.sampled_from([*ANNOTATIONS, "karpathy"]),
)
def test_files_of_json(held: bytes, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "rows.json")
        file.write_bytes(held)
        Path(name, "a.jpg").write_bytes(PICTURES[0])
        if form == "karpathy":
            values = {"file": str(file), "splits": ["train", "val", "test"]}
            config = config_of("karpathy", images=name, **values)
        else:
            files = {"train": [str(file)]}
            config = config_of("annotations", format=form, images=name, files=files)
        rows = said(lambda: list(kind_of(config).records(config, 0)))
        accounted(rows or ())
        said(lambda: derive(file, "s"))
