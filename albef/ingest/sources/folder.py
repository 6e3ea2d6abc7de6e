"""Kind ``folder``: pictures with their captions beside them, ``dog.jpg`` and ``dog.txt``.

A line of the text is a caption. Records stand in the order of their paths. A picture is a file with
a suffix of one, or any file that has a text beside it; other files are no rows.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources.rows import Source, Split, captions_of, plain

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SPLIT = re.compile(r"[a-z0-9_]+")
LARGEST_TEXT = 2**20
LARGEST_PICTURE = 2**28


class Config(Source):
    """A folder of pictures with a text beside each."""

    path: str
    """The folder; folders in it are read too, links to elsewhere are not."""
    split: Split | None = None
    """Split of all pictures; null takes it from the folder's first sub-folders, ``train/dog.jpg``.
    """


def records(config: Config, seed: int) -> Iterator[Record | Refusal]:
    """The pictures of a folder, in the order of their paths.

    Raises:
        ParamsError: there is no such folder, or none of its sub-folders can name a split.
    """
    root = Path(config.path)
    if not root.is_dir():
        raise ParamsError(f"{root} is no folder")
    inside = root.resolve()
    number = 0
    for line, (path, is_picture) in enumerate(_rows(root), 1):
        key = plain(path.relative_to(root).as_posix())
        try:
            if not is_picture:
                raise Refused(Reason.MISSING_FILE, "there is no picture beside this text")
            record = _record(config, path, inside, key, number)
        except Refused as error:
            yield error.of(line, key)
            continue
        number += 1
        yield record


def count(config: Config) -> int:
    """Pictures of the folder, and texts without one."""
    return sum(1 for _ in _rows(Path(config.path)))


def _rows(root: Path) -> Iterator[tuple[Path, bool]]:
    """Paths of pictures, and after those of each folder its texts without one; which they are."""
    for folder, folders, files in os.walk(root, onerror=_unreadable):
        folders.sort()
        known = set(files)
        stems: dict[str, list[str]] = {}
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in PICTURES or (suffix != ".txt" and f"{stem}.txt" in known):
                stems.setdefault(stem, []).append(name)
        for name in (name for names in stems.values() for name in names):
            yield Path(folder, name), True
        for name in sorted(files):
            if name.endswith(".txt") and name[:-4] not in stems:
                yield Path(folder, name), False


def _record(config: Config, path: Path, inside: Path, key: str, number: int) -> Record:
    split = config.split or _split(key)
    caption = path.with_suffix(".txt")
    if not caption.is_file():
        raise Refused(Reason.NO_CAPTION, f"there is no {caption.name} beside it")
    lines = _read(caption, inside, LARGEST_TEXT)
    try:
        captions = captions_of([lines.decode("utf-8-sig").split("\n")])
    except UnicodeDecodeError:
        raise Refused(Reason.MALFORMED_ROW, f"{caption.name} is not UTF-8") from None
    image = _read(path, inside, LARGEST_PICTURE)
    return Record(f"{split}-{number:07d}", image, captions, number, split, "folder", {"path": key})


def _split(key: str) -> str:
    name, slash, _ = key.partition("/")
    if not slash or not _SPLIT.fullmatch(name):
        raise Refused(
            Reason.MALFORMED_ROW,
            "it lies in no sub-folder whose name (small letters, digits, _) could be its split",
        )
    return name


def _read(path: Path, inside: Path, limit: int) -> bytes:
    """A file of the folder."""
    try:
        if not path.resolve().is_relative_to(inside):
            raise Refused(Reason.OUTSIDE_ROOT, f"{path.name} is a link to outside the folder")
        if not path.is_file():
            raise Refused(Reason.MISSING_FILE, f"{path.name} is no file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, RuntimeError) as error:  # a RuntimeError where links go in a circle
        why = error.strerror if isinstance(error, OSError) else error
        raise Refused(Reason.MISSING_FILE, f"{path.name} cannot be read: {why}") from None
    if len(content) > limit:
        raise Refused(Reason.TOO_MANY_BYTES, f"{path.name} has more than {limit} bytes")
    return content


def _unreadable(error: OSError) -> None:
    raise ParamsError(f"{error.filename} cannot be read: {error.strerror}")
