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
from PIL import Image

from albef.config import ParamsError
from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.data.refusal import Refusal
from albef.ingest.blocks import Blocks
from albef.ingest.derive import derive
from albef.ingest.duplicates import HELDOUT
from albef.ingest.prepare import Prepared, prepare
from albef.ingest.quarantine import write_quarantine
from albef.ingest.sources import annotations, karpathy, parquet, urls, webdataset
from tests.data import toy
from tests.ingest.bad_rows import encoded, gradient
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.ingest.sources.reading import write_tar
from tests.ingest.sources.test_webdataset import sample
from tests.ingest.test_prepare import rules

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd headers
SOME = int(os.environ.get("ALBEF_FUZZ", "40"))
fuzzed = settings(
    max_examples=SOME,
    deadline=None,
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


def accounted(rows: Iterable[Record | Refusal]) -> None:
    """Take rows as far as shards and quarantine: whatever they hold, they are written."""
    strict = rules(24, near_distance=2)
    made = [prepare(line, row, strict) for line, row in enumerate(rows, 1)]
    with tempfile.TemporaryDirectory() as name:
        blocks = Blocks(Path(name) / "blocks")
        blocks.write(made)
        assert all(record is None or record.image for _, record in blocks.records(0))
        none = HELDOUT.empty_table()
        reasons = write_quarantine(Path(name), blocks, {}, [], none, strict.limits)
        assert reasons.total() == sum(isinstance(one, Refusal) for one in made)


def said(read: Callable[[], Any]) -> Any:
    """What is read; None where the whole is refused in a sentence."""
    try:
        return read()
    except ParamsError:
        return None


def _pictures() -> list[bytes]:
    first, *more = (gradient(seed=seed) for seed in range(3))
    exif = Image.Exif()
    exif[0x0112] = 6
    moving: dict[str, Any] = {"save_all": True, "append_images": more, "duration": 40}
    layer = first.convert("RGBA")
    return [
        encoded(first),
        encoded(first, progressive=True, exif=exif),
        encoded(first.convert("CMYK")),
        encoded(first.convert("L")),
        encoded(first, "PNG"),
        encoded(first.convert("P"), "PNG"),
        encoded(first.convert("I;16"), "PNG"),
        encoded(layer, "PNG", exif=exif),
        encoded(first, "PNG", **moving),
        encoded(first, "WEBP"),
        encoded(layer, "WEBP", lossless=True),
        encoded(first, "WEBP", **moving),
        encoded(first, "GIF", **moving),
        encoded(first, "BMP"),
        encoded(first.convert("1"), "BMP"),
    ]


PICTURES = _pictures()
STARTS = [image[:size] for image in PICTURES for size in (4, 12, 40)]


@fuzzed
@given(damaged(PICTURES) | st.tuples(st.sampled_from(STARTS), st.binary()).map(b"".join))
def test_pictures(image: bytes) -> None:
    for longest_side in (None, 16):
        made = prepare(1, toy.record(1, image=image), rules(longest_side, near_distance=2))
        if isinstance(made, Prepared):
            assert max(decode(made.record.image).size) <= (longest_side or 2**12)
        else:
            assert made.detail
            assert not made.picture or decode(made.picture)


def shard(**more: Any) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        parts = [*sample(0, **more), *sample(1, **more), *sample(2, **more)]
        return write_tar(Path(name) / "a.tar", *parts).read_bytes()


@fuzzed
@given(damaged([shard(), shard(caption=["a", "b"])]), st.sampled_from(["txt", "json.caption"]))
def test_shards(held: bytes, caption: str) -> None:
    read_shard(held, caption)


def read_shard(held: bytes, caption: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.tar").write_bytes(held)
        config = webdataset.Config(
            kind="webdataset", files={"train": [f"{name}/a.tar"]}, caption=caption, keep=None,
            statuses=False,
        )  # fmt: skip
        rows = said(lambda: list(webdataset.records(config, 0)))
    accounted(rows or ())


def table(form: str) -> bytes:
    rows = [["url", "text"], *([f"http://a.test/{i}.jpg", f'a "dog" {i}\n'] for i in range(4))]
    if form == "parquet":
        sink = pa.BufferOutputStream()
        columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
        pq.write_table(pa.table(columns), sink, row_group_size=2)
        return sink.getvalue().to_pybytes()
    file = io.StringIO()
    csv.writer(file, delimiter="\t" if form == "tsv" else ",").writerows(rows)
    return file.getvalue().encode()


@fuzzed
@given(st.data(), st.sampled_from(["csv", "tsv", "parquet"]), st.booleans())
def test_lists_of_addresses(data: st.DataObject, form: Any, titled: bool) -> None:
    held = data.draw(damaged([table(form)]) | st.binary(max_size=200))
    header = None if titled or form == "parquet" else ["url", "text"]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"list.{form}"
        path.write_bytes(held)
        config = urls.Config(
            kind="urls", files=[str(path)], format=form, header=header, url="url", caption="text",
            keep=["url"], split="train", download=DOWNLOAD,
        )  # fmt: skip
        entries = said(lambda: list(urls._entries(config))) or []
        count = said(lambda: urls.count(config))
        said(lambda: derive(path))
    assert count is None or count >= 0
    accounted(entry for entry in entries if isinstance(entry, Refusal))
    for entry in entries:
        if not isinstance(entry, Refusal):
            entry[2].encode()


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
        config = parquet.Config(
            kind="parquet", files={"train": [str(path)]}, image="image", captions=["text"], keep=[]
        )
        rows = said(lambda: list(parquet.records(config, 0)))
        said(lambda: derive(path))
    accounted(rows or ())


ROWS: dict[str, dict[str, Any]] = {
    "captions": {"image": "a.jpg", "caption": ["a dog", "a cat"]},
    "vqa": {"image": "a.jpg", "question": "how many?", "question_id": 1, "dataset": "vqa",
            "answer": ["two", "2"]},
    "entailment": {"image": "a", "sentence": "a dog", "label": "neutral"},
    "nlvr2": {"images": ["a.jpg", "a.jpg"], "sentence": "two dogs", "label": "True"},
    "grounding": {"image": "a.jpg", "text": "the dog", "ref_id": 1, "box": [1, 2, 9, 9, 0.5],
                  "proposals": [[0, 0, 5, 5]]},
}  # fmt: skip
KARPATHY = {
    "filename": "a.jpg", "filepath": ".", "split": "train", "sentences": [{"raw": "a dog"}]
}  # fmt: skip


def read_json_rows(root: Path, file: Path, form: Any, joined: bool) -> None:
    if form == "karpathy":
        own = karpathy.Config(
            kind="karpathy", file=str(file), images=str(root), splits=["train", "val", "test"]
        )
        rows, count = (
            said(lambda: list(karpathy.records(own, 0))),
            said(lambda: karpathy.count(own)),
        )
    else:
        other = annotations.Config(
            kind="annotations", format=form, files={"train": [str(file)]}, images=str(root),
            joined=joined, boxes=None, proposals=None,
        )  # fmt: skip
        rows = said(lambda: list(annotations.records(other, 0)))
        count = said(lambda: annotations.count(other))
    if rows is not None and count is not None:
        assert len(rows) == count
    accounted(rows or ())
    said(lambda: derive(file))


@fuzzed
@given(
    damaged([json.dumps([row] * 2).encode() for row in ROWS.values()])
    | damaged([json.dumps({"images": [KARPATHY]}).encode()])
    | st.sampled_from([b"", b"[" * 10**5, b'{"a":' * 10**5, b"[1e999999]", b"[" + b"9" * 5000]),
    st.sampled_from([*ROWS, "karpathy"]),
)
def test_files_of_json(held: bytes, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.jpg").write_bytes(PICTURES[0])
        (Path(name) / "rows.json").write_bytes(held)
        read_json_rows(Path(name), Path(name) / "rows.json", form, joined=False)
