"""What sources of files share: how they are named and licensed, their rows, and bad ones' names."""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeVar

from pydantic import Field

from albef.config import ParamsError, Section
from albef.data.refusal import Reason, Refusal, Refused

T = TypeVar("T")
P = ParamSpec("P")
PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Suffixes of pictures; of those of a sample the first is taken."""
LARGEST_PICTURE, LARGEST_TEXT = 2**26, 2**20
"""Bytes of a file that are read: ``ingest.max_megabytes`` is at most as much."""
_DIGITS = 400  # of the longest integer; a longer one is no number that anything counts
Split = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Files = Annotated[list[str], Field(min_length=1)]
FilesBySplit = Annotated[dict[Split, Files], Field(min_length=1)]


class Licence(Section):
    """The terms of a work."""

    what: str = Field(min_length=1)
    """The work: pictures, captions or a list, by its name."""
    licence: str = Field(min_length=1)
    """Its licence or terms of use; "none named" where there are none."""
    attribution: str = ""
    """Whom to name."""
    url: str = ""
    """Where it is to be had, and its terms."""


class Source(Section):
    """A source of somebody's works."""

    kind: str
    """Name of the kind."""
    licences: list[Licence] | None = None
    """Their licences, which data set, report and model card tell; left out, none is named."""

    def inputs(self) -> dict[str, Path]:
        """Return the files that it reads, by name, without pictures and the texts beside them: the
        records have the digests of those.

        Raises:
            ParamsError: a pattern that names no file.
        """
        return {}

    def terms(self) -> list[Mapping[str, str]]:
        """Return the licences of its records, as its section names them."""
        return [licence.model_dump() for licence in self.licences or ()]

    def evaluated(self) -> Self | None:
        """Return the source without its training split, as far as its section names splits; None
        if nothing is left. Training rows that it still gives are to be passed over.
        """
        return self


class OneSplit(Source):
    """A source whose rows are of one split, or name theirs."""

    split: Split | None
    """Split of all rows; null takes it from each row."""

    def evaluated(self) -> Self | None:
        """Return the source, or None if all of it is for training."""
        return None if self.split == "train" else self


class SplitFiles(Source):
    """A source whose files are named by split."""

    files: FilesBySplit
    """Files by split, as paths or patterns."""

    def inputs(self) -> dict[str, Path]:
        """Return the files of all splits."""
        return {str(file): file for _, file in expand_splits(self.files)}

    def evaluated(self) -> Self | None:
        """Return the source without the files of training; None if there are no others."""
        others = {split: files for split, files in self.files.items() if split != "train"}
        return self.model_copy(update={"files": others}) if others else None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file."""

    file: Path | None
    """Where it stands; None where it is itself a file."""
    line: int
    """Its place there, from 1: of a text, its first line."""
    values: Any
    """By name; of a JSON list, whatever stands there."""
    key: str = ""
    """What names it, if anything does."""

    def refusal(self, error: Refused, key: str = "") -> Refusal:
        """The row, set aside; its file is named."""
        detail = f"{self.file}: {error}" if self.file else str(error)
        return Refusal("", self.line, key or self.key, error.reason, detail)

    def get(self, name: str) -> Any:
        """A value that may be left out; None then."""
        if not isinstance(self.values, Mapping):
            raise Refused(Reason.MALFORMED_ROW, f"must be an object, not {short(self.values)}")
        return self.values.get(name)

    def text(self, name: str) -> str:
        """A string that says something."""
        value = self.get(name)
        if not _is_text(value):
            raise self._wrong(name, "a text")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A string, or a list of them."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value]
        if not values or not all(map(_is_text, values)):
            raise self._wrong(name, "a text, or a list of texts")
        return tuple(values)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.get(name)
        if value not in choices:
            raise self._wrong(name, " or ".join(choices))
        return str(value)

    def _wrong(self, name: str, expected: str) -> Refused:
        value = self.get(name)
        state = "is missing" if value is None else f"is {short(value)}"
        return Refused(Reason.MISSING_FIELD, f"{name!r} {state}; it must be {expected}")


def attempt(
    row: Row | Refusal, make: Callable[Concatenate[Row, P], T], *args: P.args, **kwargs: P.kwargs
) -> T | Refusal:
    """What ``make`` gives of a row, or why there is nothing: whatever it stumbles over is a fault
    of that row and ends no other.
    """
    if isinstance(row, Refusal):
        return row
    try:
        return make(row, *args, **kwargs)
    except Exception as error:
        return row.refusal(Refused.by(error))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ParamsError: it is not there, or no JSON.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, parse_int=_int)
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is no JSON: {error}") from None


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def json_rows(path: Path, values: object, name: str) -> Iterator[Row]:
    """The rows of a JSON list, each named by its value ``name``.

    Raises:
        ParamsError: it is no list.
    """
    if not isinstance(values, list):
        raise ParamsError(f"{path} must hold a list of objects, not {short(values)}")
    for line, row in enumerate(values, 1):
        key = row.get(name) if isinstance(row, Mapping) else None
        yield Row(path, line, row, key if isinstance(key, str) else "")


def read_picture(root: Path, name: str) -> bytes:
    """The bytes of a picture in the folder ``root``.

    Raises:
        Refused: it lies elsewhere, or cannot be read.
    """
    path = root / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise Refused(Reason.OUTSIDE_ROOT, f"the image {path} lies outside {root}")
    return read_file(path, f"the image {path}", LARGEST_PICTURE)


def read_file(path: Path, name: str, limit: int) -> bytes:
    """The bytes of a file, at most ``limit``.

    Raises:
        Refused: it is no file, cannot be read, or has more; ``name`` names it.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= limit:  # a pipe would be waited for
            return path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError where it is no path, as with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise Refused(Reason.MISSING_FILE, f"{name} cannot be read: {reason}") from None
    if stat.S_ISREG(status.st_mode):
        raise Refused(Reason.TOO_MANY_BYTES, f"{name} has more than {limit} bytes")
    raise Refused(Reason.MISSING_FILE, f"{name} is no file")


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and patterns name, those of a pattern sorted.

    Raises:
        ParamsError: one that names none, or that may not be looked for.
    """
    files: list[Path] = []
    for pattern in patterns:
        try:
            names = [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))
            matched = [Path(name) for name in names if Path(name).is_file()]
        except OSError as error:
            raise ParamsError(f"{pattern} cannot be read: {error.strerror}") from None
        if not matched:
            raise ParamsError(f"{pattern} names no file")
        files += matched
    return files


def expand_splits(files: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, Path]]:
    """Each file that :func:`expand` finds of each split, with the split."""
    return ((split, file) for split, patterns in files.items() for file in expand(patterns))


def plain(value: object) -> Any:
    """A value as JSON takes it; what it has no way to say becomes a text, and no number null."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return value.encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.hex()
        case Mapping():
            return {str(plain(str(key))): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
    return plain(str(value))


def captions_of(values: Iterable[object]) -> tuple[str, ...]:
    """The captions that some values hold, each a text or a list of texts; blank ones are left out.

    Raises:
        Refused: there is none, or a value is no text.
    """
    captions: list[str] = []
    for value in values:
        for text in value if isinstance(value, list) else [value]:
            if text is None:
                continue
            if not isinstance(text, str):
                kind = type(text).__name__
                raise Refused(Reason.MISSING_FIELD, f"a caption is of type {kind}")
            if len(text) > LARGEST_TEXT:
                raise Refused(Reason.CAPTION_TOO_LONG, f"a caption has {len(text)} characters")
            if re.search("[\ud800-\udfff]", text):
                raise Refused(Reason.MALFORMED_ROW, "a caption holds half of a surrogate pair")
            if text.strip():
                captions.append(text)
    if not captions:
        raise Refused(Reason.NO_CAPTION, "there is no caption")
    return tuple(captions)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def short(value: object) -> str:
    """The start of a value of JSON, as text."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
