"""Record: one row of a dataset, and the words of its captions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Thai, Lao, Burmese, Khmer, Japanese and Chinese, which are written without spaces.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def word_count(caption: str) -> int:
    """Count the words of a caption. In scripts without spaces, each character counts as one."""
    return sum(1 for _ in _WORD.finditer(caption))


@dataclass(frozen=True, slots=True)
class Record:
    """One or more images and their captions.

    Attributes:
        key: unique in its dataset; names the row in shards, index and predictions.
        image: the encoded image; the first one if there are several.
        captions: captions of the image; may be empty only before validation.
        image_id: equal for records that show the same image.
        split: ``train``, ``val``, ``test`` or another split of the dataset.
        source: name of the source within the dataset.
        meta: other values of the source: objects and boxes of a scene, pair, noise, label,
            ``itm_captions``.
        more: the encoded images after the first.
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
        """Return all images, in order."""
        return (self.image, *self.more)

    @property
    def itm_captions(self) -> tuple[str, ...]:
        """Return further captions that only ITM reads, since they may describe other images too."""
        return tuple(self.meta.get("itm_captions") or ())
