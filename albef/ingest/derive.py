"""Inference of sources' sections of params.yaml from the files at a path."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.data.image_formats import is_image_name
from albef.data.tar import Member, members
from albef.ingest.sources import karpathy, tables, webdataset
from albef.ingest.sources.folder import text_beside
from albef.ingest.sources.rows import Row, read_json
from albef.ingest.sources.table import path_in

DOWNLOAD = {"user_agent": "albef/0.1 (reads the first rows of a list; no contact is configured)"}
"""Download settings for a list of addresses if none are set."""
HELP = (
    "write its section under datasets in params.yaml; "
    "docs/how-to/train-on-your-own-images.md lists the formats"
)
_SPLIT = re.compile(r"(?<![a-z])(train|val(?:id(?:ation)?)?|dev|test)(?![a-z])")
_URL = re.compile(r"url|link|address", re.IGNORECASE)
_CAPTION = re.compile(r"caption|text|title|description|sentence", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
# These match the names of Arrow's types: texts or lists of them; and bytes, structures with bytes,
# or lists of these.
_OF_TEXT = re.compile(r"(large_)?(list<\w+: )?(large_)?string( not null)?>?")
_OF_IMAGES = re.compile(
    r"(large_)?(list<\w+: )?((large_)?binary|struct<(.*, )?bytes: (large_)?binary.*>)( not null)?>?"
)
_SPLIT_LISTS = {"train": "*trainImages.txt", "val": "*devImages.txt", "test": "*testImages.txt"}
"""Flickr8k's lists of the images of each split."""
_LISTS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
# Of Hugging Face's ImageFolder, Kaggle, COCO and Flickr8k.
_USUAL_LISTS = re.compile(r"(metadata|captions).*|flickr8k\.token\.txt")
_KARPATHY = "dataset_*.json"  # It has the splits, so it comes before other lists.
_SAMPLE_SIZE = 100  # files of a folder, members of a tar or rows of a list that are examined
Section = dict[str, Any]


def derive(path: Path, name: str) -> dict[str, Section]:
    """Return the sections of the sources at a path, by name; several add their split to ``name``.

    The path is a folder of images with texts or lists, of shards or of Parquet files; a list of
    addresses or paths; a shard; or JSON of captions.

    Raises:
        ParamsError: the kind of a source, or a part of its section, cannot be inferred; the message
            names the part.
    """
    try:
        if not path.exists():
            raise ParamsError(f"{path} does not exist, and is not a dataset of params.yaml")
        if not path.is_dir():
            return {name: _file(path, _split_of(path))}
        for suffix, section in ((".tar", _shards), (".parquet", _parquet)):
            if files := _files(path, suffix):
                return {name: section(_by_split(files, path))}
        images = _images(path)
        has_texts = any(text_beside(image).is_file() for image in images)
        lists = {} if has_texts else _lists(path)
        if not lists:
            return {name: _folder(path, images)}
        splits = {f"{name}_{split}" if len(lists) > 1 else name: split for split in lists}
        return {source: _file(lists[split], split) for source, split in splits.items()}
    except OSError as error:
        raise ParamsError(f"cannot read {path}: {error.strerror or error}") from None


def _file(path: Path, split: str) -> Section:
    match path.suffix.lower():
        case ".tar":
            return _shards({split: [path]})
        case ".parquet":
            return _parquet({split: [path]})
        case ".json":
            return _json(path, split)
        case ".jsonl":
            with path.open("rb") as file:
                return _list([str(path)], "jsonl", None, list(_object(file.readline())), split)
        case ".tsv" | ".csv" | ".txt":
            return _text(path, split)
    raise ParamsError(
        f"cannot infer the format of {path} from its extension; set `kind` and `format`: {HELP}"
    )


def _folder(path: Path, images: list[Path]) -> Section:
    if not images:
        raise ParamsError(f"{path} has no images, shards (.tar) or Parquet files; {HELP}")
    folders = [image.relative_to(path).parts[0] for image in images if image.parent != path]
    is_split = len(folders) == len(images) and all(map(_SPLIT.match, folders))
    return {"kind": "folder", "path": str(path), "split": None if is_split else "train"}


def _images(path: Path) -> list[Path]:
    flat, nested = (
        list(islice((file for file in files if is_image_name(file.name)), _SAMPLE_SIZE))
        for files in (path.iterdir(), path.glob("*/**/*"))
    )
    return flat + nested


def _files(path: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix in a folder, or else those in its sub-folders.

    The tables that img2dataset writes beside its shards and folders are left out.
    """
    for pattern in ("*", "*/*"):
        files = [file for file in path.glob(pattern) if file.suffix.lower() == suffix]
        beside = (file.with_suffix(other).exists() for file in files for other in (".tar", ""))
        if files and (suffix == ".tar" or not any(beside)):
            return sorted(files)
    return []


def _lists(path: Path) -> dict[str, Path]:
    found = sorted(filter(_is_list, path.iterdir()))
    usual = [file for file in found if _USUAL_LISTS.match(file.name.lower())]
    if not found:
        usual = sorted(file for file in path.glob("*/*") if _USUAL_LISTS.match(file.name.lower()))
        usual = list(filter(_is_list, usual))
    with_splits = next(
        filter(None, (sorted(path.glob(f"{at}{_KARPATHY}")) for at in ("", "*/"))), []
    )
    files = with_splits or usual or found
    files = [file for file in files if _SPLIT.search(_label(file, path))] or files
    lists = {_split_of(file, path): file for file in files}
    if len(lists) < len(files):
        names = ", ".join(file.name for file in files[:9])
        raise ParamsError(f"{path} has several lists ({names}); give the path of one of them")
    return lists


def _is_list(file: Path) -> bool:
    """Return whether a file may be a list; a .txt file must also have a list's columns."""
    suffix = file.suffix.lower()
    if suffix != ".txt" or not file.is_file():
        return suffix in _LISTS and file.is_file()
    try:
        return bool(_text(file, "train"))
    except ParamsError:
        return False


def _label(file: Path, root: Path | None) -> str:
    """Return the names that may tell the split: of the file, then of its folder below ``root``."""
    folder = file.parent.name if root is not None and file.parent != root else ""
    return f"{file.stem} {folder}".lower()


def _split_of(file: Path, root: Path | None = None) -> str:
    match = _SPLIT.search(_label(file, root))
    return {"v": "val", "d": "val"}.get(match[1][0], match[1]) if match else "train"


def _by_split(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, root), []).append(file)
    return by_split


def _patterns(files_by_split: Mapping[str, list[Path]]) -> dict[str, list[str]]:
    return {split: _pattern(list(map(str, files))) for split, files in files_by_split.items()}


def _pattern(names: list[str]) -> list[str]:
    """Return many files of one folder as a pattern, if the pattern matches no other files."""
    folders = {Path(name).parent for name in names}
    if len(names) < 4 or len(folders) > 1:
        return names
    start = os.path.commonprefix([Path(name).name for name in names])  # noqa: RUF071 - of names
    pattern = folders.pop() / f"{start}*{Path(names[0]).suffix}"
    is_exact = sorted(map(str, pattern.parent.glob(pattern.name))) == sorted(names)
    return [str(pattern)] if is_exact else names


def _shards(files_by_split: Mapping[str, list[Path]]) -> Section:
    first = next(iter(files_by_split.values()))[0]
    suffixes: dict[str, bytes] = {}
    for item in islice(members(first, webdataset.limit), _SAMPLE_SIZE):
        if isinstance(item, Member):
            suffixes.setdefault(webdataset.split_name(item.name)[1], item.data)
    caption = "txt" if "txt" in suffixes else _caption_field(suffixes.get("json", b""))
    if caption is None:
        raise ParamsError(
            f"{first} has no captions: its first samples have no .txt, and no .json with a field "
            f"such as caption or text; {HELP}"
        )
    return {"kind": "webdataset", "files": _patterns(files_by_split), "caption": caption}


def _caption_field(text: bytes) -> str | None:
    texts = (name for name, value in _object(text).items() if isinstance(value, str))
    return next((f"json.{name}" for name in texts if _CAPTION.search(name)), None)


def _object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; empty if the text holds none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _parquet(files_by_split: Mapping[str, list[Path]]) -> Section:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = list(chain.from_iterable(files_by_split.values()))
    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError):
        raise ParamsError(f"{files[0]} is not a readable Parquet file") from None
    texts, images = (
        [field.name for field in schema if of_type.fullmatch(str(field.type))]
        for of_type in (_OF_TEXT, _OF_IMAGES)
    )
    if not images:
        if len(files_by_split) > 1:
            splits = ", ".join(files_by_split)
            raise ParamsError(
                f"{files[0].parent} has lists of several splits ({splits}); "
                "give the path of one of them"
            )
        (split,) = files_by_split
        return _list(list(map(str, files)), "parquet", None, texts, split)
    captions = [name for name in texts if _CAPTION.search(name)]
    if not captions:
        raise ParamsError(
            f"{files[0]} has no column whose name suggests captions; its columns are "
            f"{tables.names_of(schema.names)}; {HELP}"
        )
    return {
        "kind": "parquet", "files": _patterns(files_by_split), "image": images[0],
        "captions": captions[:1],
    }  # fmt: skip


def _text(path: Path, split: str) -> Section:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        start = [line.rstrip("\r\n") for line in islice(file, _SAMPLE_SIZE)]
    suffix = path.suffix.lower().removeprefix(".")
    form = {"txt": "tsv" if "\t" in "".join(start[:1]) else "csv"}.get(suffix, suffix)
    rows = [line.split("\t") for line in start] if form == "tsv" else list(csv.reader(start))
    if not rows or len(rows[0]) < 2:
        raise ParamsError(f"{path} must have columns for images and captions; {HELP}")
    row = rows[0]
    column = next(
        (i for i, x in enumerate(row) if _ADDRESS.match(x) or is_image_name(path_in(x))), None
    )
    if column is None:
        return _list([str(path)], form, None, row, split)
    # The file has no header line.
    names = {int(column == 0): "caption", column: "url" if _ADDRESS.match(row[column]) else "image"}
    header = [names.get(i, f"column{i + 1}") for i in range(len(row))]
    return _list([str(path)], form, header, header, split)


def _list(
    files: list[str], form: str, header: list[str] | None, columns: list[str], split: str
) -> Section:
    first_file = Path(files[0])
    texts = {name: list[str]() for name in columns}
    for row in islice(tables.read(first_file, form, header, columns), _SAMPLE_SIZE):
        for name, value in row.values.items() if type(row) is Row else ():
            texts[name] += [path_in(value)] if isinstance(value, str) else []
    url = next((name for name in columns if any(map(_ADDRESS.match, texts[name]))), None)
    url = url or next(filter(_URL.search, columns), None)
    of_images = (name for name in columns if name != url and any(map(is_image_name, texts[name])))
    image = next(of_images, None)
    root = _root_of(first_file, texts[image]) if image else None
    if url and root:  # The images were downloaded already.
        url = None
    caption = next((x for x in columns if _CAPTION.search(x) and x not in (image, url)), None)
    if (url or image) is None or caption is None:
        missing = "captions" if url or image else "image paths or URLs"
        raise ParamsError(
            f"{first_file} has no column that looks like {missing}; its columns are "
            f"{tables.names_of(columns)}; {HELP}"
        )
    table = {"files": _pattern(files), "format": form, **({"header": header} if header else {})}
    if url:
        return {
            "kind": "urls", **table, "url": url, "caption": caption, "split": split,
            "download": DOWNLOAD,
        }  # fmt: skip
    assert image is not None
    lists = _split_lists(first_file)
    return {
        "kind": "table", **table, "images": root or _root(first_file, texts[image]),
        "image": image, "caption": caption,
        **({"splits": lists} if lists else {"split": None if "split" in columns else split}),
    }  # fmt: skip


def _split_lists(table: Path) -> dict[str, str]:
    """Return Flickr8k's lists of images by split if they are near the table of its captions."""
    for folder in (table.parent, table.parent / "Flickr8k_text", table.parent.parent):
        found = {split: sorted(folder.glob(name)) for split, name in _SPLIT_LISTS.items()}
        if all(found.values()):
            return {split: str(files[0]) for split, files in found.items()}
    return {}


def _json(path: Path, split: str) -> Section:
    values = read_json(path)
    images = values.get("images") if isinstance(values, dict) else None
    if isinstance(images, list):
        rows = [row for row in images if isinstance(row, Mapping)]
        if any(row.get("sentences") for row in rows):
            return _karpathy(path, rows)
        form, field = "coco", "file_name"
        if not rows or not isinstance(values.get("annotations"), list):
            raise ParamsError(
                f"{path} has neither COCO's annotations nor sentences of its images, as in "
                f"Karpathy's splits; {HELP}"
            )
    else:
        rows = [row for row in values if isinstance(row, Mapping)] if type(values) is list else []
        if not rows or not {"image", "caption"} <= set(rows[0]):
            raise ParamsError(f"{path} has no rows with image and caption; {HELP}")
        form, field = "captions", "image"
    root = _root(path, [str(row.get(field)) for row in rows[:20]])
    files = {split: [str(path)]}
    joined = {"joined": True} if form == "captions" else {}
    return {"kind": "annotations", "format": form, "files": files, "images": root, **joined}


def _karpathy(path: Path, images: list[Mapping[str, Any]]) -> Section:
    rows = [row for row in images if row.get("sentences")]
    named = [row.get("split") for row in rows]
    splits = [split for theirs, split in karpathy.SPLITS.items() if theirs in named]
    names = [f"{row.get('filepath') or '.'}/{row.get('filename')}" for row in rows[:20]]
    return {
        "kind": "karpathy", "file": str(path), "images": _root(path, names),
        "splits": list(dict.fromkeys(splits)),
    }  # fmt: skip


def _root(path: Path, names: list[str]) -> str:
    """Return the folder that the paths of some images in a list start from."""
    root = _root_of(path, names)
    if root is None:
        missing = names[0] if names else "any image"
        raise ParamsError(f"{path}: no folder near it has {missing}; set `images`: {HELP}")
    return root


def _root_of(path: Path, names: list[str]) -> str | None:
    if folders := [os.path.dirname(name) for name in names if os.path.isabs(name)]:
        return os.path.commonpath(folders)
    for folder in chain(_around(path.parent), _around(path.parent.parent)):
        # isfile accepts any text as a name.
        if any(os.path.isfile(folder / name) for name in names):
            return str(folder)
    return None


def _around(base: Path) -> Iterator[Path]:
    yield base
    for pattern in ("*", "*/*"):
        yield from (path for path in islice(sorted(base.glob(pattern)), 1000) if path.is_dir())
