"""Examples that one model answers correctly and the other wrongly, with both answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albef.report.scores import Scores, format_truth
from albef.report.thumbnails import SplitRecords, Thumbnail, draw_located

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """A model's answer, a text or an image."""

    right: bool
    text: str = ""
    thumbnail: Thumbnail | None = None


@dataclass(frozen=True)
class Flip:
    """An example whose correctness changed, with the answers of both models.

    ``asked`` is "" if the query is an image, and ``truth`` is "" if the correct answer is an image.
    ``thumbnail`` is None if the image is unavailable or the choices show it.
    """

    asked: str
    thumbnail: Thumbnail | None
    truth: str
    before: Choice
    after: Choice


def flips(
    before: Scores, after: Scores, pairs: Sequence[tuple[int, int]], records: SplitRecords | None
) -> tuple[Flip, ...]:
    """Return the examples at pairs of rows of two scores of one split."""
    rows = ((_row(before, old), _row(after, new)) for old, new in pairs)
    return tuple(_flip(old, new, before.columns, records) for old, new in rows)


def _row(scores: Scores, index: int) -> dict[str, Any]:
    [row] = scores.table.slice(index, 1).to_pylist()
    return {**row, "right": bool(scores.right[index])}


def _flip(old: _Row, new: _Row, columns: _Row, records: SplitRecords | None) -> Flip:
    thumbnail = records.thumbnail(old["key"]) if records else None
    truth = _truth(old, columns, thumbnail)
    before, after = (_choice(row, columns, records) for row in (old, new))
    if records and "heat" in old and "heat" in new:  # each choice shows its own boxes
        thumbnail = None
        before = replace(before, thumbnail=draw_located(records, old))
        after = replace(after, thumbnail=draw_located(records, new))
    asked = old["changed"] if "changed" in old else old.get(columns.get("question", ""), "")
    return Flip(str(asked), thumbnail, truth, before, after)


def _truth(row: _Row, columns: _Row, thumbnail: Thumbnail | None) -> str:
    """Return the correct answer as text, or "" if it is an image."""
    if "query" in row:
        return "" if row["query"] == "t2i" else "; ".join(thumbnail.captions if thumbnail else ())
    if "changed" in row:
        return str(row["caption"])
    return format_truth(row, columns)


def _choice(row: _Row, columns: _Row, records: SplitRecords | None) -> Choice:
    right = row["right"]
    if "query" in row:
        first = next(iter(row["top"]), "")
        if row["query"] == "i2t":
            return Choice(right, first)
        thumbnail = records.thumbnail(first) if records and first else None
        depth = len(row["top"])  # later answers may not have been re-ranked
        rank = f"at rank {row['rank'] + 1}" if row["rank"] < depth else f"beyond rank {depth}"
        return Choice(right, f"correct image {rank}", thumbnail)
    if "changed" in row:
        return Choice(right, f"{row['changed_score']:.3f}, true text {row['score']:.3f}")
    if "iou" in row:
        return Choice(right, f"IoU {row['iou']:.2f}")
    return Choice(right, str(row[columns["given"]]))
