"""Values of a row as captions and as meta."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from albef.data.refusal import Reason, Refused


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


def texts(values: Iterable[object]) -> tuple[str, ...]:
    """The captions that some values hold, each a text or a list of texts; blank ones are left out.

    Raises:
        Refused: there is none, or a value is no text.
    """
    found: list[str] = []
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                continue
            if not isinstance(one, str):
                said = f"a caption is of type {type(one).__name__}"
                raise Refused(Reason.MISSING_FIELD, said)
            if any("\ud800" <= letter <= "\udfff" for letter in one):
                raise Refused(Reason.MALFORMED_ROW, "a caption holds half of a surrogate pair")
            if one.strip():
                found.append(one)
    if not found:
        raise Refused(Reason.NO_CAPTION, "there is no caption")
    return tuple(found)
