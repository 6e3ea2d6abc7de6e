"""Records of the built-in views, small ones, each drawn once."""

import io
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.builtin.describe import Group, Scene
from albef.config import validate
from albef.data.record import Record
from albef.ingest.sources import kinds

VALUES: dict[str, dict[str, Any]] = {
    "scenes": {
        "objects": 12, "pixels": 48, "splits": {"train": 150, "val": 30, "test": 50, "pairs": 36},
        "captions": 2, "caption_noise": 0.0, "unseen": 0.2,
    },
    "pictures": {"objects": 12, "pixels": 48, "splits": {"train": 120, "val": 12}},
    "questions": {"objects": 24, "pixels": 32, "splits": {"train": 240, "val": 30, "test": 90}},
    "statements": {"objects": 12, "pixels": 48, "splits": {"train": 120, "val": 30, "test": 60}},
    "comparisons": {"objects": 12, "pixels": 32, "splits": {"train": 160, "val": 20, "test": 80}},
    "expressions": {"objects": 16, "pixels": 48, "splits": {"train": 48, "val": 20, "test": 40}},
}  # fmt: skip


def draw(kind: str, seed: int = 1, **changed: Any) -> list[Record]:
    """The records of a view; the same list for the same values."""
    return _draw(kind, seed, json.dumps(changed))


@cache
def _draw(kind: str, seed: int, changed: str) -> list[Record]:
    values = {"kind": kind, **VALUES[kind], **json.loads(changed)}
    view = kinds()[kind]
    rows = view.records(validate(view.Config, values, where="test"), seed)
    return [row for row in rows if isinstance(row, Record)]


def of(records: Iterable[Record], *splits: str) -> list[Record]:
    return [record for record in records if record.split in splits]


def scene_from(meta: Mapping[str, Any]) -> Scene:
    """The scene in a record's meta."""
    return Scene(tuple(Group(**group) for group in meta["groups"]), meta["relation"])


def scenes_of(record: Record) -> list[Scene]:
    """The scene of each picture."""
    return [scene_from(meta) for meta in record.meta.get("pictures", [record.meta])]


def scene_of(record: Record) -> Scene:
    return scene_from(record.meta)


def pixels_of(record: Record) -> NDArray[np.int64]:
    """The picture, and nothing but whole colours."""
    return np.asarray(Image.open(io.BytesIO(record.image))).astype(int)


def inside(record: Record) -> NDArray[np.bool_]:
    """Which pixels lie in the box of an object."""
    side = pixels_of(record).shape[0]
    mask = np.zeros((side, side), bool)
    for thing in record.meta["objects"]:
        x, y, width, height = thing["box"]
        assert 0 <= x < x + width <= side
        assert 0 <= y < y + height <= side
        mask[y : y + height, x : x + width] = True
    return mask
