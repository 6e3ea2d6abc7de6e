"""What the sources that read files share: JSON, pictures and errors that name a row."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError

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
    except ValueError as error:
        raise ParamsError(f"{path} is no JSON: {error}") from None


class Row:
    """A mapping of a JSON list, whose errors name the file and the row.

    Attributes:
        where: ``FILE, row N``, from 0.
    """

    def __init__(self, values: object, where: str) -> None:
        self.where = where
        if not isinstance(values, Mapping):
            raise self.error(f"must be an object, not {_shown(values)}")
        self._values = values

    def error(self, said: str) -> ParamsError:
        """An error of this row."""
        return ParamsError(f"{self.where}: {said}")

    def get(self, key: str) -> Any:
        """A value that may be left out; None then."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """A string that says something."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(self._wanted(key, "a text"))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A string, or a list of them."""
        value = self.get(key)
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not value or not all(_is_text(item) for item in value):
            raise self.error(self._wanted(key, "a text, or a list of texts"))
        return tuple(value)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.get(key)
        if value not in known:
            raise self.error(self._wanted(key, " or ".join(known)))
        return str(value)

    def picture(self, root: Path, name: str) -> bytes:
        """The bytes of a picture."""
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise self.error(f"the image {root / name} cannot be read: {error.strerror}") from None

    def _wanted(self, key: str, what: str) -> str:
        held = f"is {_shown(self.get(key))}" if key in self._values else "is missing"
        return f"{key!r} {held}; it must be {what}"


def rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON list, in order.

    Raises:
        ParamsError: the file is no JSON list of objects.
    """
    held = read_json(path)
    if not isinstance(held, list):
        raise ParamsError(f"{path} must hold a list of objects, not {_shown(held)}")
    for number, values in enumerate(held):
        yield Row(values, f"{path}, row {number}")


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
