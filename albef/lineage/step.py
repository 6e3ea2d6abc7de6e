"""A step of a chain: a product, what names it, whether the file at hand is that one, its record."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from albef.io import file_digest

State = Literal["verified", "changed", "missing", ""]
"""The file at hand has the digest that is told of it; has another; is not here; nothing tells."""

REMEDY = "make it again, or `dvc checkout`"


class LineageError(ValueError):
    """A path that is no product, or a damaged one; its text is the sentence to show."""


@dataclass(frozen=True)
class Record:
    """How a stage made a product, from its run record.

    Attributes:
        stage: its address.
        own: "verified" where the record names the very file that is at hand, "changed" where it
            names another one, "" where it names none.
        facts: the whole record.
    """

    stage: str
    own: State
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A product or source.

    Attributes:
        what: it is, as ``checkpoint``.
        name: of it.
        path: where it lies, or should; "" where that is not known.
        digest: SHA-256 that is told of it, or of what is at hand; "" where neither is known.
        state: of the file at hand.
        found: digest of the file at hand where that is another one; "" otherwise.
        facts: what it tells of itself.
        code: of the stage that made it: digest and whether the code at hand is the same; None
            where it does not tell.
        record: how it was made; None where that is not known.
        origins: what it was made of.
    """

    what: str
    name: str
    path: str = ""
    digest: str = ""
    state: State = ""
    found: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[str, State] | None = None
    record: Record | None = None
    origins: tuple["Step", ...] = ()

    def walk(self) -> Iterator["Step"]:
        """This step and all before it."""
        yield self
        for origin in self.origins:
            yield from origin.walk()


def held(told: str, found: str) -> State:
    """How a digest that is told compares with the one that is found, "" being none."""
    if not found:
        return "missing"
    if not told:
        return ""
    return "verified" if told == found else "changed"


def named(record: Record | None) -> State:
    """Whether a run record names the file at hand; one of another file says nothing of it."""
    return "verified" if record and record.own == "verified" else ""


@cache
def digest_at(path: Path) -> str:
    """SHA-256 of a file, or "" where there is none."""
    return file_digest(path) if path.is_file() else ""


def read(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is none.

    Raises:
        LineageError: it is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise LineageError(f"{path} is no JSON ({error}): {REMEDY}") from None
    if not isinstance(values, dict):
        raise LineageError(f"{path} holds no mapping: {REMEDY}")
    return values
