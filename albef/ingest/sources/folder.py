"""Kind ``folder``: images with text files of the same name, ``dog.jpg`` and ``dog.txt``.

Each line of the ``.txt`` file is a caption. Records are in the order of their paths. A file is an
image if it has an image suffix, or a ``.txt`` file of the same name. A ``.txt`` file without an
image becomes a rejected row. Other files, such as img2dataset's ``.json``, are ignored.
"""

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from albef.config import ParamsError
from albef.data.image_formats import IMAGE_SUFFIXES, is_image_name
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    OneSplit,
    Row,
    Split,
    attempt,
    captions_of,
    read_file,
    to_json,
)

_SPLIT = re.compile(r"[a-z0-9_]+")
_BESIDE = (".txt", ".json")  # captions, and img2dataset's facts of an image


class Config(OneSplit):
    """Folder of images with a ``.txt`` file beside each."""

    path: str
    """Folder of the images and, in any sub-folder, more of them. Links to files outside it are
    rejected."""
    split: Split | None = None
    """Split of all images; null reads it from the first level of sub-folders, as in
    ``train/dog.jpg``."""

    def all_splits(self) -> set[str]:
        """Return the split, or the sub-folders that name splits."""
        if self.split:
            return {self.split}
        return {
            it.name for it in Path(self.path).iterdir() if it.is_dir() and _SPLIT.fullmatch(it.name)
        }


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the images of a folder, in the order of their paths."""
    root = Path(config.path)
    if not root.is_dir():
        raise ParamsError(f"{root} is not a folder")
    resolved = root.resolve()
    number = line = 0
    for line, (path, is_image) in enumerate(_rows(root), 1):
        row = Row(None, line, is_image, to_json(path.relative_to(root).as_posix()))
        result = attempt(row, _record, config, path, resolved, number)
        number += isinstance(result, Record)
        yield result
    if not line:
        raise ParamsError(f"{root} has no images ({', '.join(IMAGE_SUFFIXES)}) and no .txt files")


def text_beside(image: Path) -> Path:
    """Return the path of an image's captions: the ``.txt`` or ``.TXT`` file of the same name."""
    text, upper = image.with_suffix(".txt"), image.with_suffix(".TXT")
    return upper if upper.is_file() and not text.is_file() else text


def _rows(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield images, with True, and after those of each folder texts without one, with False."""
    for folder, folders, files in os.walk(root, onerror=_unreadable):
        folders.sort()
        texts = {stem for stem, suffix in map(os.path.splitext, files) if suffix.lower() == ".txt"}
        stems: dict[str, list[str]] = {}
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if is_image_name(name) or (suffix.lower() not in _BESIDE and stem in texts):
                stems.setdefault(stem, []).append(name)
        for name in chain.from_iterable(stems.values()):
            yield Path(folder, name), True
        for name in sorted(files):
            if name.lower().endswith(".txt") and name[:-4] not in stems:
                yield Path(folder, name), False


def _record(row: Row, config: Config, path: Path, resolved: Path, number: int) -> Record:
    if not row.values:
        raise RowError(Reason.MISSING_FILE, "no image has the name of this text file")
    split = config.split or _split(row.key)
    caption = text_beside(path)
    if not caption.is_file():
        raise RowError(Reason.NO_CAPTION, f"{caption.name} is missing")
    lines = _read(caption, resolved, MAX_TEXT_BYTES).decode("utf-8-sig").split("\n")
    captions = captions_of([lines])
    image = _read(path, resolved, MAX_IMAGE_BYTES)
    meta = {"path": row.key}
    return Record(f"{split}-{number:07d}", image, captions, number, split, "folder", meta)


def _split(key: str) -> str:
    name, slash, _ = key.partition("/")
    if not slash or not _SPLIT.fullmatch(name):
        detail = "its first sub-folder must name its split, in a-z, 0-9 and _; or set split"
        raise RowError(Reason.MALFORMED_ROW, detail)
    return name


def _read(path: Path, resolved: Path, limit: int) -> bytes:
    # Linked folders are not followed, so only the file itself can be a link.
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(resolved):
        raise RowError(Reason.OUTSIDE_ROOT, f"{path.name} links to a file outside the folder")
    return read_file(path, path.name, limit)


def _unreadable(error: OSError) -> None:
    raise ParamsError(f"{error.filename} cannot be read: {error.strerror}")
