"""Examples of grounding: pictures under their heat maps, with the boxes meant and chosen."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from albef.data.boxes import RIGHT, Box
from albef.report.examples import spread
from albef.report.heatmap import MEANT, OWN, WRONG, outline, overlay
from albef.report.pictures import data_uri
from albef.report.results import Picture, Place

_COLUMNS = {"key", "expression", "truth", "box", "iou", "map_box", "map_iou", "heat"}
_SIDE = 240  # pixels of the longest side of a picture on the page


class Records(Protocol):
    """The records of a split, as far as these examples need them."""

    def image(self, key: str) -> Image.Image | None:
        """The decoded picture of a record; None where there is none, or it is broken."""


def is_grounding(table: pa.Table) -> bool:
    """Whether predictions are those of grounding."""
    return set(table.column_names) >= _COLUMNS


def places(table: pa.Table, records: Records, count: int) -> tuple[Place, ...]:
    """At most ``count`` examples at even steps, half of them right as far as there are."""
    right = table["iou"].to_numpy() >= RIGHT
    good, bad = np.flatnonzero(right).tolist(), np.flatnonzero(~right).tolist()
    most = max(count - count // 2, count - len(bad))
    chosen = spread(good, most)
    chosen += spread(bad, count - len(chosen))
    rows = table.take(pa.array(chosen, pa.int64())).to_pylist()
    return tuple(_places(rows, records))


def _places(rows: list[dict[str, Any]], records: Records) -> Iterator[Place]:
    for row in rows:
        note = f"IoU {row['iou']:.2f}, of the map's own box {row['map_iou']:.2f}"
        yield Place(drawn(records, row), row["expression"], row["iou"] >= RIGHT, note)


def drawn(records: Records, row: Mapping[str, Any]) -> Picture:
    """The picture of a prediction under its heat map, with the boxes."""
    picture = records.image(row["key"])
    uri = "" if picture is None else _drawn(picture, row)
    return Picture(row["key"], uri, (row["expression"],))


def _drawn(picture: Image.Image, row: Mapping[str, Any]) -> str:
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    heat = np.frombuffer(row["heat"], np.uint8).astype(np.float32)
    side = round(len(heat) ** 0.5)
    large = overlay(picture.resize(size, Image.Resampling.BICUBIC), heat.reshape(side, side))

    def scaled(box: list[float]) -> Box:
        x, y, width, height = (value * scale for value in box)
        return x, y, width, height

    if row["map_box"]:
        outline(large, scaled(row["map_box"]), OWN, width=2, dashed=True)
    outline(large, scaled(row["truth"]), MEANT)
    if row["box"] and row["iou"] < RIGHT:
        outline(large, scaled(row["box"]), WRONG)
    buffer = BytesIO()
    large.save(buffer, "PNG")
    return data_uri(buffer.getvalue(), _SIDE)
