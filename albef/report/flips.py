"""Examples that one model answers rightly and the other wrongly, with what each of them says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albef.report.pictures import Picture, SplitRecords, draw_located
from albef.report.scores import Scores


@dataclass(frozen=True)
class Choice:
    """What a model answers: a text or a picture, and whether it is right."""

    right: bool
    text: str = ""
    picture: Picture | None = None


@dataclass(frozen=True)
class Flip:
    """An example whose answer turned, and what the two models say.

    ``asked`` is "" where a picture is what was asked with, and ``truth`` where that is the picture;
    there is no picture where it is not at hand or the choices show it.
    """

    asked: str
    picture: Picture | None
    truth: str
    before: Choice
    after: Choice


def flips(
    before: Scores, after: Scores, pairs: Sequence[tuple[int, int]], records: SplitRecords | None
) -> tuple[Flip, ...]:
    """The examples at places of both tables, scores of the same split of the same kind; ``records``
    are None where its pictures are not at hand."""
    return tuple(
        _flip(
            before.table.slice(old, 1).to_pylist()[0] | {"right": bool(before.right[old])},
            after.table.slice(new, 1).to_pylist()[0] | {"right": bool(after.right[new])},
            before.columns,
            records,
            all("heat" in side.table.column_names for side in (before, after)),
        )
        for old, new in pairs
    )


def _flip(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    columns: Mapping[str, Any],
    records: SplitRecords | None,
    boxes: bool,
) -> Flip:
    picture = records.picture(old["key"]) if records else None
    flip = Flip(
        asked=str(old.get(columns.get("question", ""), "")),
        picture=picture,
        truth=_truth(old, columns, picture),
        before=_choice(old, columns, records),
        after=_choice(new, columns, records),
    )
    if boxes and records:
        drawn = [draw_located(records, row) for row in (old, new)]
        flip = replace(
            flip,
            picture=None,
            before=replace(flip.before, picture=drawn[0]),
            after=replace(flip.after, picture=drawn[1]),
        )
    return replace(flip, asked=old["changed"]) if "changed" in old else flip


def _truth(row: Mapping[str, Any], columns: Mapping[str, Any], picture: Picture | None) -> str:
    """The right answer in words, as far as it has any."""
    if "query" in row:
        return "" if row["query"] == "t2i" else "; ".join(picture.captions if picture else ())
    if "changed" in row:
        return str(row["caption"])
    truths = row[columns["truth"]] if columns["truth"] else ""
    return ", ".join(dict.fromkeys(truths)) if isinstance(truths, list) else str(truths)


def _choice(
    row: Mapping[str, Any], columns: Mapping[str, Any], records: SplitRecords | None
) -> Choice:
    right = row["right"]
    if "query" in row:
        first = next(iter(row["top"]), "")
        if row["query"] == "i2t":
            return Choice(right, first)
        picture = records.picture(first) if records and first else None
        kept = len(row["top"])  # what lies beyond them need not have been re-ranked
        place = f"at place {row['rank'] + 1}" if row["rank"] < kept else f"beyond place {kept}"
        return Choice(right, f"right one {place}", picture)
    if "changed" in row:
        return Choice(right, f"{row['changed_score']:.3f}, the true one {row['score']:.3f}")
    if "iou" in row:
        return Choice(right, f"IoU {row['iou']:.2f}")
    return Choice(right, str(row[columns["given"]]))
