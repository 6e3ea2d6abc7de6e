"""Examples that one model answers correctly and the other wrongly, with both answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from albef.report.scores import Scores, format_truth
from albef.report.thumbnails import SplitRecords, Thumbnail

_Row = Mapping[str, Any]


class Flip(NamedTuple):
    """An example whose correctness changed, with the answers of both models.

    ``asked`` is "" if the query is an image, and ``truth`` is "" if ``thumbnail`` is the correct
    answer. ``thumbnail`` is None if the image is unavailable.
    """

    asked: str
    thumbnail: Thumbnail | None
    truth: str
    before: str
    after: str


def flips(
    before: Scores, after: Scores, pairs: Sequence[tuple[int, int]], records: SplitRecords | None
) -> tuple[Flip, ...]:
    """Return the examples at pairs of rows of two scores of one split."""
    columns, found = before.columns, []
    for indices in pairs:
        old, new = (
            scores.table.slice(index, 1).to_pylist()[0]
            for scores, index in zip((before, after), indices, strict=True)
        )
        thumbnail = records.thumbnail(old["key"]) if records else None
        asked = old["changed"] if "changed" in old else old.get(columns.get("question", ""), "")
        truth = _truth(old, columns, thumbnail)
        given = _answer(old, columns), _answer(new, columns)
        found.append(Flip(str(asked), thumbnail, truth, *given))
    return tuple(found)


def _truth(row: _Row, columns: _Row, thumbnail: Thumbnail | None) -> str:
    """Return the correct answer as text, or "" if it is an image."""
    if "query" in row:
        return "" if row["query"] == "t2i" else "; ".join(thumbnail.captions if thumbnail else ())
    return str(row["caption"]) if "changed" in row else format_truth(row, columns)


def _answer(row: _Row, columns: _Row) -> str:
    if "query" in row and row["query"] == "t2i":
        depth = len(row["top"])  # later answers may not have been re-ranked
        rank = f"at rank {row['rank'] + 1}" if row["rank"] < depth else f"beyond rank {depth}"
        return f"correct image {rank}"
    if "query" in row:
        return str(next(iter(row["top"]), ""))
    if "changed" in row:
        return f"{row['changed_score']:.3f}, true text {row['score']:.3f}"
    return f"IoU {row['iou']:.2f}" if "iou" in row else str(row[columns["given"]])
