"""How training reads a data set: the values that it goes by beside what it does to pictures."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from albef.config import Section, validate

Share = Annotated[float, Field(ge=0, le=1)]


class ReadingConfig(Section):
    """The order of records, and what may be damaged before training stops."""

    window: Annotated[int, Field(ge=1)] | None
    """Shards within which records are shuffled, one such window after the other, the shards in
    random order; null shuffles the whole split."""
    max_damaged_records: Share
    """Largest share of the split's records that a process may find damaged; others take their
    places."""
    max_damaged_shards: Share
    """Largest share of the split's shards that it may find missing or unreadable."""


def read_reading(section: Mapping[str, Any], *, where: str, key: str) -> ReadingConfig:
    """The part of a data set's section that training goes by, ``augment`` aside.

    Raises:
        ParamsError: a missing key, a wrong type or range.
    """
    values = {name: section[name] for name in ReadingConfig.model_fields if name in section}
    return validate(ReadingConfig, values, where=where, key=key)
