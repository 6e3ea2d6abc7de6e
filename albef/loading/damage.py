"""What of a split cannot be read, held against what training takes."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from albef.data.reading import ReadingConfig
from albef.data.shards import ShardError, Shards

log = logging.getLogger(__name__)


class Met(NamedTuple):
    """A place of a batch that another record had to take."""

    shard: str
    """Name of the shard."""
    key: str
    """Of the record; "" where it is the shard as a whole."""
    what: str
    """What is wrong."""


class Damage:
    """The damage that this process has met in a split; it knows nothing of others'.

    Args:
        shards: the split.
        config: what is taken.
    """

    def __init__(self, shards: Shards, config: ReadingConfig) -> None:
        self._shards = shards
        self._config = config
        self._of_shards = len(shards.shard_names.unique())
        self._known: set[tuple[str, str]] = set()
        self._replaced = 0

    def meet(self, found: Iterable[Met]) -> None:
        """Count; what is new is told.

        Raises:
            ShardError: it is more than is taken.
        """
        for met in found:
            self._replaced += 1
            if (met.shard, met.key) in self._known:
                continue
            self._known.add((met.shard, met.key))
            self._hold(met)
            log.warning("%s; other records take its place", met.what)

    def _hold(self, met: Met) -> None:
        facts, split = self.facts(), self._shards.split
        if met.key:
            name, count, of = "records", facts["records"], len(self._shards)
            most = self._config.max_damaged_records
        else:
            name, count, of = "shards", facts["shards"], self._of_shards
            most = self._config.max_damaged_shards
        if count > most * of:
            whose = self._shards.name
            raise ShardError(
                f"{met.what}; that makes {count} damaged of the {of} {name} of {whose}, split "
                f"{split}, more than max_damaged_{name} {most:g} allows: "
                f"{self._shards.files.remedy}, or allow more"
            )

    def facts(self) -> dict[str, int]:
        """Damaged records and shards, each counted once, and places that others had to take."""
        shards = sum(not key for _, key in self._known)
        return {
            "records": len(self._known) - shards,
            "shards": shards,
            "replaced": self._replaced,
        }
