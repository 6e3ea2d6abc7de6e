"""What the sources that read files share: JSON, pictures and errors that name a row."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError
from albef.data.refusal import Reason, Refusal, Refused

_NUMBER = re.compile(r"(\d+)\D*$")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ParamsError: it is not there, or no JSON.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is no JSON: {error}") from None


class Row:
    """A mapping of a JSON list, whose errors name the file and the row.

    Attributes:
        line: its place in the list, from 1.
    """

    def __init__(self, values: object, file: Path | str, line: int) -> None:
        self.line = line
        self._file = file
        self._values = values

    def refused(self, reason: Reason, said: str) -> Refused:
        """What is raised where this row turns out to be a bad one."""
        return Refused(reason, f"{self._file}, row {self.line}: {said}")

    def refusal(self, error: Refused, *names: str) -> Refusal:
        """The refusal of this row; its key is the first text under one of ``names``."""
        values = self._values if isinstance(self._values, Mapping) else {}
        key = next((values[name] for name in names if isinstance(values.get(name), str)), "")
        return error.of(self.line, key)

    def get(self, key: str) -> Any:
        """A value that may be left out; None then."""
        if not isinstance(self._values, Mapping):
            said = f"must be an object, not {_shown(self._values)}"
            raise self.refused(Reason.MALFORMED_ROW, said)
        return self._values.get(key)

    def inner(self, values: object) -> "Row":
        """A mapping within this row, with errors of this row."""
        return Row(values, self._file, self.line)

    def text(self, key: str) -> str:
        """A string that says something."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.refused(Reason.MISSING_FIELD, self._wanted(key, "a text"))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A string, or a list of them."""
        value = self.get(key)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not value or not all(_is_text(item) for item in value):
            raise self.refused(
                Reason.MISSING_FIELD, self._wanted(key, "a text, or a list of texts")
            )
        return tuple(value)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.get(key)
        if value not in known:
            raise self.refused(Reason.MISSING_FIELD, self._wanted(key, " or ".join(known)))
        return str(value)

    def picture(self, root: Path, name: str) -> bytes:
        """The bytes of a picture in the folder ``root``."""
        path = root / name
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
            raise self.refused(Reason.OUTSIDE_ROOT, f"the image {path} lies outside {root}")
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:  # a ValueError where it is no path, as with a NUL
            why = error.strerror if isinstance(error, OSError) else error
            said = f"the image {path} cannot be read: {why}"
            raise self.refused(Reason.MISSING_FILE, said) from None

    def _wanted(self, key: str, what: str) -> str:
        held = f"is {_shown(self.get(key))}" if self.get(key) is not None else "is missing"
        return f"{key!r} {held}; it must be {what}"


def rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON list, in order.

    Raises:
        ParamsError: the file is no JSON list.
    """
    held = read_json(path)
    if not isinstance(held, list):
        raise ParamsError(f"{path} must hold a list of objects, not {_shown(held)}")
    for number, values in enumerate(held, 1):
        yield Row(values, path, number)


class ImageIds:
    """A number for each picture, in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The number of a picture: equal names are the same picture."""
        return self._known.setdefault(name, len(self._known))


def number_in(name: str) -> str | None:
    """The last number in a file's name, without leading zeros: an image's id at COCO."""
    found = _NUMBER.search(Path(name).stem)
    return str(int(found[1])) if found else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
