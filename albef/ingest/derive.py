"""A source's section of params.yaml from what lies at a path, as far as that can be told."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.data.tar import Member, members
from albef.ingest.sources import karpathy
from albef.ingest.sources.folder import PICTURES
from albef.ingest.sources.rows import read_json

DOWNLOAD = {
    "user_agent": "albef/0.1 (the first rows of a list are looked at; no contact is given)",
    "connections": 64, "per_host": 8, "connect_s": 10, "read_s": 15, "total_s": 60, "attempts": 3,
    "backoff_s": 2, "max_wait_s": 300, "give_up_after": 50, "redirects": 5, "max_mb": 16,
    "allow_loopback": False,
}  # fmt: skip
"""How a list of addresses is downloaded where nobody said anything else."""
HELP = "name it under datasets in params.yaml, see docs/data.md"
_SPLITS = re.compile(r"^(train|val(?:id(?:ation)?)?|dev|test)(?![a-z])")
_URL = re.compile(r"url|link|address", re.IGNORECASE)
_CAPTION = re.compile(r"caption|text|title|description|sentence", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_LOOKED_AT = 100  # files of a folder, members of a tar, rows of a list
_LARGEST = 2**28  # bytes of a tar's member
Section = dict[str, Any]


def derive(path: Path) -> Section:
    """The section of a source.

    Args:
        path: a folder of pictures with texts beside them, of shards or of Parquet files; a list as
            TSV, CSV or Parquet; a shard; or JSON of annotations.

    Raises:
        ParamsError: it cannot be told what it is, or a part of it cannot; the sentence says so.
    """
    if not path.exists():
        raise ParamsError(f"{path} is neither there nor a data set of params.yaml")
    try:
        if path.is_dir():
            return _folder(path)
        by_suffix = {
            ".tar": lambda: _shards([path]),
            ".parquet": lambda: _parquet([path]),
            ".json": lambda: _json(path),
            ".tsv": lambda: _text(path, "tsv"),
            ".csv": lambda: _text(path, "csv"),
        }
        if path.suffix.lower() in by_suffix:
            return by_suffix[path.suffix.lower()]()
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror or error}") from None
    raise ParamsError(
        f"{path}: what it holds cannot be told by {path.suffix or 'a name without suffix'}; {HELP}"
    )


def _folder(path: Path) -> Section:
    for suffix, made in ((".tar", _shards), (".parquet", _parquet)):
        files = sorted(path.glob(f"*{suffix}")) or sorted(path.glob(f"*/*{suffix}"))
        if files and not (
            suffix == ".parquet" and any(f.with_suffix(".tar").exists() for f in files)
        ):
            return made(files)
    top = [own for own in path.iterdir() if own.suffix.lower() in PICTURES]
    inside = (own for own in path.glob("*/**/*") if own.suffix.lower() in PICTURES)
    below = list(islice(inside, _LOOKED_AT))
    if not top and not below:
        raise ParamsError(f"{path} holds neither pictures, shards (.tar) nor .parquet; {HELP}")
    named = all(_SPLITS.match(own.relative_to(path).parts[0]) for own in below)
    return {"kind": "folder", "path": str(path), "split": None if named and not top else "train"}


def _by_split(files: Iterable[Path]) -> dict[str, list[str]]:
    """Files by the split that their name, or that of their folder, begins with."""
    found: dict[str, list[str]] = {}
    for file in files:
        named = _SPLITS.match(file.name.lower()) or _SPLITS.match(file.parent.name.lower())
        split = {"v": "val", "d": "val"}.get(named[1][0], named[1]) if named else "train"
        found.setdefault(split, []).append(str(file))
    return {split: _pattern(names) for split, names in found.items()}


def _pattern(names: list[str]) -> list[str]:
    """Many files of one folder as a pattern, where it names no other ones."""
    folders = {Path(name).parent for name in names}
    if len(names) < 4 or len(folders) > 1:
        return names
    folder, suffix = folders.pop(), Path(names[0]).suffix
    start = _common([Path(name).name for name in names])
    same = sorted(str(file) for file in folder.glob(f"{start}*{suffix}")) == sorted(names)
    return [str(folder / f"{start}*{suffix}")] if same else names


def _common(names: Sequence[str]) -> str:
    least, most = min(names), max(names)
    return next((least[:i] for i, c in enumerate(least) if c != most[i : i + 1]), least)


def _shards(files: list[Path]) -> Section:
    suffixes: dict[str, bytes] = {}
    for item in islice(members(files[0], _LARGEST), _LOOKED_AT):
        if isinstance(item, Member):
            suffixes.setdefault(item.name.rpartition("/")[2].partition(".")[2].lower(), item.data)
    caption = "txt" if "txt" in suffixes else _field(suffixes.get("json", b""))
    if caption is None:
        raise ParamsError(
            f"{files[0]}: no sample of its first ones has a .txt, or a .json with a caption; {HELP}"
        )
    statuses = all(file.with_suffix(".parquet").is_file() for file in files)
    return {
        "kind": "webdataset", "files": _by_split(files), "caption": caption, "keep": None,
        "statuses": statuses,
    }  # fmt: skip


def _field(text: bytes) -> str | None:
    import json

    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    texts = [k for k, v in told.items() if isinstance(v, str)] if isinstance(told, dict) else []
    name = next(filter(_CAPTION.search, texts), None)
    return f"json.{name}" if name else None


def _parquet(files: list[Path]) -> Section:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError):
        raise ParamsError(f"{files[0]} is no Parquet file that can be read") from None
    texts = [field.name for field in schema if _of_text(field.type)]
    captions = [name for name in texts if _CAPTION.search(name)]
    pictures = [field.name for field in schema if _of_pictures(field.type)]
    if pictures:
        if not captions:
            raise ParamsError(f"{files[0]}: none of its columns is a caption by its name; {HELP}")
        return {
            "kind": "parquet", "files": _by_split(files), "image": pictures[0],
            "captions": captions[:1], "keep": [],
        }  # fmt: skip
    return _list([str(file) for file in files], "parquet", None, texts)


def _of_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _of_pictures(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(own.name == "bytes" and types.is_binary(own.type) for own in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _text(path: Path, form: str) -> Section:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        start = [line.rstrip("\r\n") for line in islice(file, _LOOKED_AT)]
    rows = [line.split("\t") for line in start] if form == "tsv" else list(csv.reader(start))
    if not rows or len(rows[0]) < 2:
        raise ParamsError(f"{path} has no two columns, of addresses and captions; {HELP}")
    first = rows[0]
    if any(_ADDRESS.match(field) for field in first):  # no line names the columns
        at = next(i for i, field in enumerate(first) if _ADDRESS.match(field))
        said = next(i for i in range(len(first)) if i != at)
        names = {at: "url", said: "caption"}
        header = [names.get(i, f"column{i + 1}") for i in range(len(first))]
        return _list([str(path)], form, header, header)
    return _list([str(path)], form, None, first)


def _list(files: list[str], form: str, header: list[str] | None, columns: list[str]) -> Section:
    url = next(filter(_URL.search, columns), None)
    caption = next((name for name in columns if _CAPTION.search(name) and name != url), None)
    if url is None or caption is None:
        missing = "addresses" if url is None else "captions"
        raise ParamsError(f"{files[0]}: which column holds the {missing} cannot be told; {HELP}")
    return {
        "kind": "urls", "files": _pattern(files), "format": form, "header": header, "url": url,
        "caption": caption, "keep": [], "split": "train", "download": DOWNLOAD,
    }  # fmt: skip


_FORMATS = {  # of annotations, by what a row has
    "nlvr2": {"images", "sentence"},
    "vqa": {"image", "question"},
    "entailment": {"image", "sentence", "label"},
    "grounding": {"image", "text", "ref_id"},
    "captions": {"image", "caption"},
}


def _json(path: Path) -> Section:
    held = read_json(path)
    images = held.get("images") if isinstance(held, dict) else None
    if isinstance(images, list):
        rows = [row for row in images if isinstance(row, Mapping) and row.get("sentences")]
        if not rows:
            raise ParamsError(f"{path}: its images have no sentences, as Karpathy's do; {HELP}")
        named = [row.get("split") for row in rows]
        splits = list(
            dict.fromkeys(ours for theirs, ours in karpathy.SPLITS.items() if theirs in named)
        )
        parts = [(row.get("filepath") or ".", row.get("filename")) for row in rows[:20]]
        root = _root(path, [f"{folder}/{name}" for folder, name in parts])
        return {"kind": "karpathy", "file": str(path), "images": root, "splits": splits}
    rows = [row for row in held if isinstance(row, Mapping)] if isinstance(held, list) else []
    form = next((name for name, has in _FORMATS.items() if rows and has <= set(rows[0])), None)
    if form is None:
        raise ParamsError(f"{path}: no format of annotations is known by what it holds; {HELP}")
    field = "images" if form == "nlvr2" else "image"
    held = [row.get(field) for row in rows[:20]]
    first = held if form == "nlvr2" else [[name] for name in held]
    ending = ".jpg" if form == "entailment" else ""
    names = [f"{own[0]}{ending}" for own in first if isinstance(own, list) and own]
    return {
        "kind": "annotations", "format": form, "files": _by_split([path]),
        "images": _root(path, names), "joined": False, "boxes": None, "proposals": None,
    }  # fmt: skip


def _root(path: Path, names: list[str]) -> str:
    """The folder that some pictures' paths start from."""
    for folder in _around(path.parent):
        if any(_is_file(folder / name) for name in names):
            return str(folder)
    shown = names[0] if names else "its pictures"
    raise ParamsError(f"{path}: the folder that {shown} lies in is not beside it; {HELP}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path
        return False


def _around(here: Path) -> Iterator[Path]:
    for base in (here, here.parent):
        yield base
        for pattern in ("*", "*/*"):
            yield from (own for own in islice(sorted(base.glob(pattern)), 1000) if own.is_dir())
