"""Boxes ``(x, y, width, height)`` in pixels: overlap, and the box that a heat map points to."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Left edge, top edge, width and height, in pixels."""
MIN_IOU = 0.5
"""Least IoU at which a box counts as correct."""

_FAR = 2.0**53  # Every side of a box is shorter than this.
GRID = 64
"""Cells per side of the grid in which a heat map's own box is searched."""

Heat = NDArray[np.float32]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two boxes.

    As in the public code of RefCOCO, an overlap of at most one pixel in either direction counts as
    none.
    """
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 1 or height <= 1:
        return 0.0
    shared = width * height
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


def recall(ious: Iterable[float]) -> float:
    """Return the percentage of IoU values that count as correct; 0 if there are none."""
    right = [value >= MIN_IOU for value in ious]
    return 100.0 * sum(right) / max(1, len(right))


def regions(boxes: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Describe the position and size of each box without looking at the image.

    Each description is "column row size". Column and row are the thirds that the centre of the box
    lies in, between the outermost centres. Size is how often the area must be doubled, at most
    three times, to reach the area of the largest box.
    """
    if not boxes:
        return ()
    table = np.asarray([box[:4] for box in boxes], np.float64)
    centres = table[:, :2] + table[:, 2:] / 2
    least, span = centres.min(0), np.ptp(centres, axis=0)
    cells = np.minimum(3 * (centres - least) / np.where(span > 0, span, 1), 2).astype(int)
    areas = np.maximum(table[:, 2] * table[:, 3], 1e-9)
    sizes = np.minimum(np.log2(areas.max() / areas).round(), 3).astype(int)
    return tuple(f"{x} {y} {size}" for (x, y), size in zip(cells, sizes, strict=True))


def enlarged(heat: Heat, height: int, width: int) -> Heat:
    """Resize a heat map (n, m) to (height, width) by bicubic interpolation.

    Corners are not aligned. The cubic is that of torch's ``interpolate`` (a = -0.75), and edges are
    repeated.
    """
    rows, columns = _cubic(heat.shape[0], height), _cubic(heat.shape[1], width)
    result: Heat = (rows @ heat.astype(np.float64) @ columns.T).astype(np.float32)
    return result


@lru_cache(4)  # of the grid and of an image, which all texts of a request share
def _cubic(old: int, new: int) -> NDArray[np.float64]:
    """Return the (new, old) weights of each old cell in each new cell."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, old))
    for step in range(4):
        away = np.abs(centre - (first + step))
        near = (1.25 * away - 2.25) * away**2 + 1
        far = -0.75 * (((away - 5) * away + 8) * away - 4)
        at = np.clip(first + step, 0, old - 1)
        np.add.at(weights, (np.arange(new), at), np.where(away <= 1, near, far))
    return weights


def hottest(
    heat: Heat, boxes: Sequence[Sequence[float]], size: tuple[int, int] | None = None
) -> int | None:
    """Return the index of the first box that a heat map points to.

    The heat map (n, m) covers an image of ``size`` (height, width), by default its own, with the
    values of :func:`enlarged`. The box with the most heat, divided by the square root of its area,
    is chosen. The result is None if no box contains any heat.
    """
    if not boxes:
        return None
    height, width = size or heat.shape
    x, y, across, down = np.array(boxes, np.float64).T
    with np.errstate(over="ignore"):  # Clients may send huge numbers.
        area, beneath, beyond = across * down, y + down, x + across
    top, bottom = (np.clip(edge, 0, height).astype(int) for edge in (y, beneath))
    left, right = (np.clip(edge, 0, width).astype(int) for edge in (x, beyond))
    rows, columns = _sums(heat.shape[0], height), _sums(heat.shape[1], width)
    totals = ((rows[bottom] - rows[top]) @ heat * (columns[right] - columns[left])).sum(axis=1)
    is_empty = (bottom <= top) | (right <= left) | (area <= 0)
    scores = np.where(is_empty, 0.0, totals / np.sqrt(np.where(is_empty, 1.0, area)))
    best = int(scores.argmax())
    return best if scores[best] > 0 else None


@lru_cache(2)  # The rows and columns of an image, which all its texts share.
def _sums(old: int, new: int) -> NDArray[np.float64]:
    """Return the (new + 1, old) weights of each old cell in the first new cells together.

    The sum over a box is linear in the map, so a map need not be enlarged to the image's size,
    which a client chooses.
    """
    return np.concatenate([np.zeros((1, old)), _cubic(old, new)]).cumsum(axis=0)


def around(heat: Heat, share: float) -> Box | None:
    """Return the box around the hottest region, in cells of the map.

    A region is a connected set of cells (side by side, not corner to corner) that reach ``share``
    of the peak. The hottest region has the largest total heat. The result is None if no value of
    the map (H, W) is above 0.
    """
    peak = float(heat.max())
    if not peak > 0:
        return None
    labels = _regions(heat >= share * peak)
    totals = np.bincount(labels.ravel(), heat.astype(np.float64).ravel())[: heat.size]
    rows, columns = (axis.tolist() for axis in np.nonzero(labels == totals.argmax()))
    left, top = min(columns), min(rows)
    return (left, top, max(columns) + 1 - left, max(rows) + 1 - top)


def in_pixels(box: Box | None, width: int, height: int) -> Box | None:
    """Convert a box from cells of a grid with :data:`GRID` cells per side to pixels of an image."""
    if box is None:
        return None
    across, down = width / GRID, height / GRID
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def _regions(hot: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return a label (H, W) of each cell: the first index of its region, or H * W if it is cold."""
    labels = np.where(hot, np.arange(hot.size).reshape(hot.shape), hot.size)
    while True:
        least = labels.copy()
        np.minimum(least[1:], labels[:-1], out=least[1:])
        np.minimum(least[:-1], labels[1:], out=least[:-1])
        np.minimum(least[:, 1:], labels[:, :-1], out=least[:, 1:])
        np.minimum(least[:, :-1], labels[:, 1:], out=least[:, :-1])
        # The label of a label is as low and in the same region, so long regions need few rounds.
        least = np.where(hot, np.append(labels, hot.size)[least], hot.size)
        if np.array_equal(least, labels):
            return labels
        labels = least


def of_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record's meta that locate something in its image.

    These are ``box``, ``proposals`` and the boxes of ``objects``. A field of that name that holds
    another kind of value is left out.
    """
    located = {"box": meta["box"]} if is_box(meta.get("box")) else {}
    for name, check in (("proposals", is_box), ("objects", _is_placed)):
        values = meta.get(name)
        if isinstance(values, list | tuple) and values and all(map(check, values)):
            located[name] = values
    return located


def scaled(located: Mapping[str, Any], across: float, down: float) -> dict[str, Any]:
    """Scale the result of :func:`of_meta` to another size of the image.

    The new image is ``across`` times as wide and ``down`` times as high.
    """

    def of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {**value, "box": of(value["box"])}
        if not is_box(value):
            return list(map(of, value))
        return [round(side * (down if i % 2 else across), 2) for i, side in enumerate(value)]

    return {name: of(value) for name, value in located.items()}


def _is_placed(value: object) -> bool:
    return isinstance(value, Mapping) and is_box(value.get("box"))


def is_box(value: Any) -> TypeGuard[Sequence[float]]:
    """Return whether a value is four finite numbers that are not larger than any image."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(isinstance(side, int | float) and abs(side) < _FAR for side in value)
    )
