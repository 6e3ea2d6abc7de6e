"""Values of a row as captions and as meta."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


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
            return {str(plain(str(key))): plain(own) for key, own in value.items()}
        case list() | tuple():
            return [plain(own) for own in value]
    return plain(str(value))


def texts(values: Iterable[object]) -> tuple[str, ...] | str:
    """The captions that some values hold, each a text or a list of texts.

    Blank ones are left out; nothing is left where all are. Where a value is of another type, what
    is wrong is returned.
    """
    found: list[str] = []
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                continue
            if not isinstance(one, str):
                return f"a caption is no text but {type(one).__name__}"
            if any("\ud800" <= letter <= "\udfff" for letter in one):
                return "a caption holds half of a surrogate pair"
            if one.strip():
                found.append(one)
    return tuple(found)
