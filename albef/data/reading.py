"""How training reads a data set: the order of records, and what may be damaged."""

from typing import Annotated

from pydantic import Field

from albef.config import Section

Share = Annotated[float, Field(ge=0, le=1)]


class ReadingConfig(Section):
    """The order of records, and what may be damaged before training stops."""

    window: Annotated[int, Field(ge=1)] | None = None
    """Shards within which records are shuffled, one such window after the other, the shards in
    random order; null shuffles the whole split."""
    max_damaged_records: Annotated[Share, Field(exclude=True)] = 0.0
    """Largest share of the split's records that a process may find damaged; others take their
    places. A training that was stopped by this goes on with another."""
    max_damaged_shards: Annotated[Share, Field(exclude=True)] = 0.0
    """Largest share of the split's shards that it may find missing or unreadable."""
