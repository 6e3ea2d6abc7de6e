"""Common parts of sources that read files: their values, rows and rejected rows."""

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
from albef.data.rejection import Reason, Rejection, RowError

T = TypeVar("T")
P = ParamSpec("P")
MAX_IMAGE_BYTES, MAX_TEXT_BYTES = 2**26, 2**20
"""Most bytes that are read of an image and of a text; ``ingest.max_megabytes`` is not larger."""
_MAX_DIGITS = 400  # of an integer; a longer one is read as a float
Split = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Files = Annotated[list[str], Field(min_length=1)]
FilesBySplit = Annotated[dict[Split, Files], Field(min_length=1)]


class Licence(Section):
    """Licence of a work."""

    what: str = Field(min_length=1)
    """The work, such as images or captions."""
    licence: str = Field(min_length=1)
    """Licence or terms of use of the work; "none named" if there are none."""
    attribution: str = ""
    """Person or organization to name as the author."""
    url: str = ""
    """URL of the work and its terms."""


class Source(Section):
    """Source of third-party works."""

    kind: str
    """Name of the kind."""
    licences: list[Licence] | None = None
    """Licences of the works, listed in the dataset, the report and the model card."""

    def inputs(self) -> dict[str, Path]:
        """Return the files that the source reads, by name, without images and texts beside them.

        Raises:
            ParamsError: a pattern matches no file.
        """
        return {}

    def terms(self) -> list[Mapping[str, str]]:
        """Return the licences of its records, as its section lists them."""
        return [licence.model_dump() for licence in self.licences or ()]

    def fields_of_row(self) -> frozenset[str] | None:
        """Return the fields of meta that name a row, not its image; None if rows never merge.

        Rows of the same image that differ only in these fields and in their captions are merged.
        """
        return None

    def all_splits(self) -> set[str]:
        """Return the splits of all rows, as its section or its files name them."""
        return set()

    def evaluated(self) -> Self | None:
        """Return the source without the training files that its section names; None if all are.

        The caller must skip training rows that the source still yields.
        """
        return self


class OneSplit(Source):
    """Source whose rows belong to one split, or each name their split."""

    split: Split | None
    """Split of all rows; null reads it from each row."""

    def all_splits(self) -> set[str]:
        """Return the split, if it is that of all rows."""
        return {self.split} if self.split else set()

    def evaluated(self) -> Self | None:
        """Return the source; None if all of its rows are training rows."""
        return None if self.split == "train" else self


class SplitFiles(Source):
    """Source whose files are listed by split."""

    files: FilesBySplit
    """Files by split, as paths or patterns."""

    def inputs(self) -> dict[str, Path]:
        """Return the files of all splits."""
        return {str(file): file for _, file in expand_splits(self.files)}

    def all_splits(self) -> set[str]:
        """Return the splits of the files."""
        return set(self.files)

    def evaluated(self) -> Self | None:
        """Return the source without its training files; None if no others exist."""
        others = {split: files for split, files in self.files.items() if split != "train"}
        return self.model_copy(update={"files": others}) if others else None


@dataclass(frozen=True, slots=True)
class Row:
    """Row of a file."""

    file: Path | None
    """File that contains the row; None if the row is itself a file."""
    line: int
    """Position of the row in the file, from 1; in a text file, its first line."""
    values: Any
    """Values by name; for a JSON list, the item of any type."""
    key: str = ""
    """Name of the row; "" if it has none."""

    def rejection(self, error: RowError, key: str = "") -> Rejection:
        """Return the rejection of the row; the detail names its file."""
        detail = f"{self.file}: {error}" if self.file else str(error)
        return Rejection("", self.line, key or self.key, error.reason, detail)

    def get(self, name: str) -> Any:
        """Return a value, or None if it is missing."""
        if not isinstance(self.values, Mapping):
            raise RowError(
                Reason.MALFORMED_ROW, f"must be an object, got {abbreviate(self.values)}"
            )
        return self.values.get(name)

    def text(self, name: str) -> str:
        """Return a string that is not blank."""
        value = self.get(name)
        if not _is_text(value):
            raise self._invalid(name, "a non-blank string")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a string or a list of strings, as a tuple."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value]
        if not values or not all(map(_is_text, values)):
            raise self._invalid(name, "a non-blank string or a list of them")
        return tuple(values)

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        """Return a string that is one of some choices."""
        value = self.get(name)
        if value not in choices:
            raise self._invalid(name, " or ".join(choices))
        return str(value)

    def _invalid(self, name: str, expected: str) -> RowError:
        value = self.get(name)
        problem = "is missing; it" if value is None else f"is {abbreviate(value)}; it"
        return RowError(Reason.MISSING_FIELD, f"{name!r} {problem} must be {expected}")


def attempt(
    row: Row | Rejection, parse: Callable[Concatenate[Row, P], T], *args: P.args, **kwargs: P.kwargs
) -> T | Rejection:
    """Return the result of ``parse`` for a row, or the rejection of the row if it fails."""
    if isinstance(row, Rejection):
        return row
    try:
        return parse(row, *args, **kwargs)
    except Exception as error:
        return row.rejection(RowError.by(error))


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file; those of JSON lines as a list.

    Raises:
        ParamsError: the file is missing or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text, parse_int=_int)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
            return _json_lines(text)
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is not JSON: {error}") from None


def _json_lines(text: str) -> list[Any]:
    """Return the values of JSON lines.

    Raises:
        ValueError: a line is not JSON.
    """
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [json.loads(line, parse_int=_int)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg}") from None
    return values


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def json_rows(path: Path, values: object, name: str) -> Iterator[Row]:
    """Yield the rows of a JSON list, each named by its value ``name``.

    Raises:
        ParamsError: the value is not a list.
    """
    if not isinstance(values, list):
        raise ParamsError(f"{path} must contain a list of objects, got {abbreviate(values)}")
    for line, row in enumerate(values, 1):
        key = row.get(name) if isinstance(row, Mapping) else None
        yield Row(path, line, row, key if isinstance(key, str) else "")


def read_image(root: Path, name: str) -> bytes:
    """Return the bytes of an image in the folder ``root``.

    Raises:
        RowError: the image is outside the folder, or cannot be read.
    """
    path = root / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise RowError(Reason.OUTSIDE_ROOT, f"image {path} is outside {root}")
    return read_file(path, f"image {path}", MAX_IMAGE_BYTES)


def read_file(path: Path, name: str, limit: int) -> bytes:
    """Return the content of a file, at most ``limit`` bytes.

    Raises:
        RowError: the path is not a regular file, or it cannot be read or is larger; the message
            calls the file ``name``.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= limit:  # Reading a pipe would block.
            return path.read_bytes()
    # A ValueError means an invalid path, such as one with a NUL.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RowError(Reason.MISSING_FILE, f"{name} cannot be read: {reason}") from None
    if stat.S_ISREG(status.st_mode):
        raise RowError(Reason.TOO_MANY_BYTES, f"{name} has more than {limit} bytes")
    raise RowError(Reason.MISSING_FILE, f"{name} is not a regular file")


def expand(patterns: Iterable[str]) -> list[Path]:
    """Return the files that paths and patterns name, those of a pattern sorted.

    Raises:
        ParamsError: a pattern matches no file, or must not be searched.
    """
    files: list[Path] = []
    for pattern in patterns:
        try:
            names = [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))
            matched = [Path(name) for name in names if Path(name).is_file()]
        except OSError as error:
            raise ParamsError(f"{pattern} cannot be read: {error.strerror}") from None
        if not matched:
            raise ParamsError(f"no file matches {pattern}")
        files += matched
    return files


def expand_splits(files: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, Path]]:
    """Return each file that :func:`expand` finds, with its split."""
    return ((split, file) for split, patterns in files.items() for file in expand(patterns))


def keep(row: Row, columns: Iterable[str]) -> dict[str, Any]:
    """Return the values of some columns as JSON can hold them.

    Raises:
        RowError: they have too many bytes.
    """
    kept = {column: to_json(row.values[column]) for column in columns}
    if len(json.dumps(kept)) > MAX_TEXT_BYTES:
        raise RowError(Reason.TOO_MANY_BYTES, f"`keep` has more than {MAX_TEXT_BYTES} bytes")
    return kept


def to_json(value: object) -> Any:
    """Return a value that JSON can hold: NaN and Inf become null, other types become strings.

    Raises:
        RowError: a text has too many bytes.
    """
    match value:
        case None | bool() | int():
            return value
        case str() | bytes() if len(value) > MAX_TEXT_BYTES:
            raise RowError(Reason.TOO_MANY_BYTES, f"a value has {len(value)} bytes")
        case str():
            return value.encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.hex()
        case Mapping():
            return {str(to_json(str(key))): to_json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [to_json(inner) for inner in value]
    return to_json(str(value))


def captions_of(values: Iterable[object]) -> tuple[str, ...]:
    """Return the captions in some values, each a string or a list of strings, without blank ones.

    Raises:
        RowError: all captions are blank or missing, one is not a string, or they are too long.
    """
    captions: list[str] = []
    size = 0
    for value in values:
        for text in value if isinstance(value, list) else [value]:
            if text is None:
                continue
            if not isinstance(text, str):
                kind = type(text).__name__
                raise RowError(Reason.MISSING_FIELD, f"a caption must be a string, got {kind}")
            size += len(text)
            if size > MAX_TEXT_BYTES:
                detail = f"the captions have more than {MAX_TEXT_BYTES} characters"
                raise RowError(Reason.CAPTION_TOO_LONG, detail)
            if re.search("[\ud800-\udfff]", text):
                raise RowError(Reason.MALFORMED_ROW, "a caption has an unpaired surrogate")
            if text.strip():
                captions.append(text)
    if not captions:
        raise RowError(Reason.NO_CAPTION, "the row has no caption")
    return tuple(captions)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def abbreviate(value: object) -> str:
    """Return the start of a JSON value as text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
