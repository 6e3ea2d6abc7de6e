"""Examples that one model answers correctly and the other wrongly, with both answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albef.report.pictures import Picture, SplitRecords, draw_located
from albef.report.scores import Scores, truth_of


@dataclass(frozen=True)
class Choice:
    """A model's answer, a text or an image, and whether it is correct."""

    right: bool
    text: str = ""
    picture: Picture | None = None


@dataclass(frozen=True)
class Flip:
    """An example whose correctness changed, with the answers of both models.

    ``asked`` is "" if the query is an image, and ``truth`` is "" if the correct answer is an image.
    The image is None if it is unavailable or the choices show it.
    """

    asked: str
    picture: Picture | None
    truth: str
    before: Choice
    after: Choice


def flips(
    before: Scores, after: Scores, pairs: Sequence[tuple[int, int]], records: SplitRecords | None
) -> tuple[Flip, ...]:
    """Return the examples at pairs of rows of two score tables.

    Both tables are for the same split and the same kind. ``records`` is None if the split's images
    are unavailable.
    """
    return tuple(
        _flip(_row(before, old), _row(after, new), before.columns, records) for old, new in pairs
    )


def _row(scores: Scores, index: int) -> dict[str, Any]:
    [row] = scores.table.slice(index, 1).to_pylist()
    return {**row, "right": bool(scores.right[index])}


def _flip(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    columns: Mapping[str, Any],
    records: SplitRecords | None,
) -> Flip:
    picture = records.picture(old["key"]) if records else None
    truth = _truth(old, columns, picture)
    before, after = (_choice(row, columns, records) for row in (old, new))
    if records and "heat" in old and "heat" in new:  # each choice shows its own boxes
        picture = None
        before = replace(before, picture=draw_located(records, old))
        after = replace(after, picture=draw_located(records, new))
    asked = old["changed"] if "changed" in old else old.get(columns.get("question", ""), "")
    return Flip(str(asked), picture, truth, before, after)


def _truth(row: Mapping[str, Any], columns: Mapping[str, Any], picture: Picture | None) -> str:
    """Return the correct answer in words, or "" if it has none."""
    if "query" in row:
        return "" if row["query"] == "t2i" else "; ".join(picture.captions if picture else ())
    if "changed" in row:
        return str(row["caption"])
    return truth_of(row, columns)


def _choice(
    row: Mapping[str, Any], columns: Mapping[str, Any], records: SplitRecords | None
) -> Choice:
    right = row["right"]
    if "query" in row:
        first = next(iter(row["top"]), "")
        if row["query"] == "i2t":
            return Choice(right, first)
        picture = records.picture(first) if records and first else None
        depth = len(row["top"])  # later answers may not have been re-ranked
        position = f"at place {row['rank'] + 1}" if row["rank"] < depth else f"beyond place {depth}"
        return Choice(right, f"right one {position}", picture)
    if "changed" in row:
        return Choice(right, f"{row['changed_score']:.3f}, the true one {row['score']:.3f}")
    if "iou" in row:
        return Choice(right, f"IoU {row['iou']:.2f}")
    return Choice(right, str(row[columns["given"]]))
