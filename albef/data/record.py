"""One row of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """An image, or several, and what is said of it.

    Attributes:
        key: unique in its data set; names the row in shards, index and predictions.
        image: the encoded picture; the first one where there are several.
        captions: what is said of it; may be empty only before validation.
        image_id: equal for records that show the same picture.
        split: ``train``, ``val``, ``test`` or another split of the data set.
        source: name of the source within the data set.
        meta: whatever else the source knows: objects and boxes of a scene, pair, noise, label.
        more: the encoded pictures after the first.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    image_id: int
    split: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[bytes, ...] = ()

    @property
    def images(self) -> tuple[bytes, ...]:
        """All pictures, in order."""
        return (self.image, *self.more)
