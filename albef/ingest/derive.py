"""Inference of a source's section of params.yaml from the files at a path."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.data.tar import Member, members
from albef.ingest.sources import karpathy, tables, webdataset
from albef.ingest.sources.folder import is_image_name
from albef.ingest.sources.rows import Row, read_json

DOWNLOAD = {"user_agent": "albef/0.1 (the first rows of a list are looked at; no contact is given)"}
"""Download settings for a list of addresses if none are set."""
HELP = "name it under datasets in params.yaml, see docs/how-to/read-a-table.md"
_SPLITS = re.compile(r"^(train|val(?:id(?:ation)?)?|dev|test)(?![a-z])")
_URL = re.compile(r"url|link|address", re.IGNORECASE)
_CAPTION = re.compile(r"caption|text|title|description|sentence", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
# These match the names of Arrow's types: texts or lists of them; and bytes, structures with bytes,
# or lists of these.
_OF_TEXT = re.compile(r"(large_)?(list<\w+: )?(large_)?string( not null)?>?")
_OF_PICTURES = re.compile(
    r"(large_)?(list<\w+: )?((large_)?binary|struct<(.*, )?bytes: (large_)?binary.*>)( not null)?>?"
)
_SAMPLE_SIZE = 100  # files of a folder, members of a tar or rows of a list that are examined
Section = dict[str, Any]


def derive(path: Path) -> Section:
    """Return the section of a source.

    Args:
        path: path of the source. It is one of these:

            - a folder of images with captions or one list beside them;
            - a folder of shards or of Parquet files;
            - a list of addresses or paths as TSV, CSV or Parquet;
            - a shard;
            - JSON of annotations.

    Raises:
        ParamsError: the kind of the source, or a part of its section, cannot be inferred; the
            message names the part.
    """
    try:
        if not path.exists():
            raise ParamsError(f"{path} is neither there nor a data set of params.yaml")
        match path.suffix.lower():
            case _ if path.is_dir():
                return _folder(path)
            case ".tar":
                return _shards([path])
            case ".parquet":
                return _parquet([path])
            case ".json":
                return _json(path)
            case ".tsv" | ".csv" as suffix:
                return _text(path, suffix.removeprefix("."))
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror or error}") from None
    raise ParamsError(
        f"{path}: what it holds cannot be told by {path.suffix or 'a name without suffix'}; {HELP}"
    )


def _folder(path: Path) -> Section:
    for suffix, derived in ((".tar", _shards), (".parquet", _parquet)):
        files = sorted(path.glob(f"*{suffix}")) or sorted(path.glob(f"*/*{suffix}"))
        if files and not any(f.with_suffix(".tar").exists() for f in files if suffix != ".tar"):
            return derived(files)
    flat = any(is_image_name(file.name) for file in path.iterdir())
    inside = (file for file in path.glob("*/**/*") if is_image_name(file.name))
    nested = list(islice(inside, _SAMPLE_SIZE))
    if not flat and not nested:
        raise ParamsError(f"{path} holds neither pictures, shards (.tar) nor .parquet; {HELP}")
    lists = [file for file in path.iterdir() if file.suffix in (".csv", ".tsv", ".json")]
    if len(lists) == 1 and next(path.glob("**/*.txt"), None) is None:
        return derive(lists[0])
    is_split = not flat and all(_SPLITS.match(file.relative_to(path).parts[0]) for file in nested)
    return {"kind": "folder", "path": str(path), "split": None if is_split else "train"}


def _by_split(files: Iterable[Path]) -> dict[str, list[str]]:
    """Group files by the split that their name, or the name of their folder, begins with."""
    by_split: dict[str, list[str]] = {}
    for file in files:
        match = _SPLITS.match(file.name.lower()) or _SPLITS.match(file.parent.name.lower())
        split = {"v": "val", "d": "val"}.get(match[1][0], match[1]) if match else "train"
        by_split.setdefault(split, []).append(str(file))
    return {split: _pattern(names) for split, names in by_split.items()}


def _pattern(names: list[str]) -> list[str]:
    """Return many files of one folder as a pattern, if the pattern matches no other files."""
    folders = {Path(name).parent for name in names}
    if len(names) < 4 or len(folders) > 1:
        return names
    start = os.path.commonprefix([Path(name).name for name in names])  # noqa: RUF071 - of names
    pattern = folders.pop() / f"{start}*{Path(names[0]).suffix}"
    is_exact = sorted(map(str, pattern.parent.glob(pattern.name))) == sorted(names)
    return [str(pattern)] if is_exact else names


def _shards(files: list[Path]) -> Section:
    suffixes: dict[str, bytes] = {}
    for item in islice(members(files[0], webdataset.limit), _SAMPLE_SIZE):
        if isinstance(item, Member):
            suffixes.setdefault(webdataset.split_name(item.name)[1], item.data)
    caption = "txt" if "txt" in suffixes else _field(suffixes.get("json", b""))
    if caption is None:
        raise ParamsError(
            f"{files[0]}: no sample of its first ones has a .txt, or a .json with a caption; {HELP}"
        )
    return {"kind": "webdataset", "files": _by_split(files), "caption": caption}


def _field(text: bytes) -> str | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    fields = values.items() if isinstance(values, dict) else ()
    texts = (name for name, value in fields if isinstance(value, str))
    return next((f"json.{name}" for name in texts if _CAPTION.search(name)), None)


def _parquet(files: list[Path]) -> Section:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError):
        raise ParamsError(f"{files[0]} is no Parquet file that can be read") from None
    texts, pictures = (
        [field.name for field in schema if of_type.fullmatch(str(field.type))]
        for of_type in (_OF_TEXT, _OF_PICTURES)
    )
    if not pictures:
        return _list([str(file) for file in files], "parquet", None, texts)
    captions = [name for name in texts if _CAPTION.search(name)]
    if not captions:
        raise ParamsError(
            f"{files[0]}: none of its columns is a caption by its name: "
            f"{_names(schema.names)}; {HELP}"
        )
    files_by_split = _by_split(files)
    return {
        "kind": "parquet", "files": files_by_split, "image": pictures[0], "captions": captions[:1]
    }  # fmt: skip


def _text(path: Path, form: str) -> Section:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        start = [line.rstrip("\r\n") for line in islice(file, _SAMPLE_SIZE)]
    rows = [line.split("\t") for line in start] if form == "tsv" else list(csv.reader(start))
    if not rows or len(rows[0]) < 2:
        raise ParamsError(f"{path} has no two columns, of addresses and captions; {HELP}")
    row = rows[0]
    column = next((i for i, x in enumerate(row) if _ADDRESS.match(x) or is_image_name(x)), None)
    if column is None:
        return _list([str(path)], form, None, row)
    # The file has no header line.
    names = {int(column == 0): "caption", column: "url" if _ADDRESS.match(row[column]) else "image"}
    header = [names.get(i, f"column{i + 1}") for i in range(len(row))]
    return _list([str(path)], form, header, header)


def _list(files: list[str], form: str, header: list[str] | None, columns: list[str]) -> Section:
    first_file = Path(files[0])
    rows = islice(tables.read(first_file, form, header, columns), _SAMPLE_SIZE)
    texts = {name: list[str]() for name in columns}
    for name, value in chain.from_iterable(row.values.items() for row in rows if type(row) is Row):
        texts[name] += [value] if isinstance(value, str) else []
    url = next((name for name in columns if any(map(_ADDRESS.match, texts[name]))), None)
    url = url or next(filter(_URL.search, columns), None)
    image = url or next((name for name in columns if any(map(is_image_name, texts[name]))), None)
    caption = next((name for name in columns if _CAPTION.search(name) and name != image), None)
    if image is None or caption is None:
        missing = "captions" if image else "addresses or paths of pictures"
        raise ParamsError(
            f"{first_file}: which column holds the {missing} cannot be told; its columns are "
            f"{_names(columns)}; {HELP}"
        )
    table = {"files": _pattern(files), "format": form, **({"header": header} if header else {})}
    if url:
        return {
            "kind": "urls", **table, "url": url, "caption": caption, "split": "train",
            "download": DOWNLOAD,
        }  # fmt: skip
    folders = [os.path.dirname(name) for name in texts[image] if os.path.isabs(name)]
    return {
        "kind": "table", **table,
        "images": os.path.commonpath(folders) if folders else _root(first_file, texts[image]),
        "image": image, "caption": caption, **({"split": None} if "split" in columns else {}),
    }  # fmt: skip


def _names(columns: list[str]) -> str:
    return ", ".join(name[:40] for name in columns[:20])


_FORMATS = {  # formats of annotations, by the fields of a row
    "nlvr2": {"images", "sentence"},
    "vqa": {"image", "question"},
    "entailment": {"image", "sentence", "label"},
    "grounding": {"image", "text", "ref_id"},
    "captions": {"image", "caption"},
}


def _json(path: Path) -> Section:
    values = read_json(path)
    images = values.get("images") if isinstance(values, dict) else None
    if isinstance(images, list):
        rows = [row for row in images if isinstance(row, Mapping) and row.get("sentences")]
        if not rows:
            raise ParamsError(f"{path}: its images have no sentences, as Karpathy's do; {HELP}")
        named = [row.get("split") for row in rows]
        splits = [split for theirs, split in karpathy.SPLITS.items() if theirs in named]
        names = [f"{row.get('filepath') or '.'}/{row.get('filename')}" for row in rows[:20]]
        return {
            "kind": "karpathy", "file": str(path), "images": _root(path, names),
            "splits": list(dict.fromkeys(splits)),
        }  # fmt: skip
    rows = [row for row in values if isinstance(row, Mapping)] if isinstance(values, list) else []
    form = next((name for name, has in _FORMATS.items() if rows and has <= set(rows[0])), None)
    if form is None:
        raise ParamsError(f"{path}: no format of annotations is known by what it holds; {HELP}")
    names = [f"{name}{'.jpg' * (form == 'entailment')}" for name in map(_first_image, rows[:20])]
    return {
        "kind": "annotations", "format": form, "files": _by_split([path]),
        "images": _root(path, names),
    }  # fmt: skip


def _first_image(row: Mapping[str, Any]) -> object:
    images = row.get("images")
    return images[0] if isinstance(images, list) and images else row.get("image")


def _root(path: Path, names: list[str]) -> str:
    """Return the folder that the paths of some images start from."""
    for folder in chain(_around(path.parent), _around(path.parent.parent)):
        # isfile accepts any text as a name.
        if any(os.path.isfile(folder / name) for name in names):
            return str(folder)
    missing = names[0] if names else "its pictures"
    raise ParamsError(f"{path}: the folder that {missing} lies in is not beside it; {HELP}")


def _around(base: Path) -> Iterator[Path]:
    yield base
    for pattern in ("*", "*/*"):
        yield from (path for path in islice(sorted(base.glob(pattern)), 1000) if path.is_dir())
