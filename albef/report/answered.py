"""Examples of kinds that answer: right and wrong ones, as far as there are of both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from albef.report import scores
from albef.report.examples import Records, spread
from albef.report.results import Answered, Answers

_ASKED = ("question", "sentence")
_GIVEN = ("predicted", "written", "answer")


def answers(table: pa.Table, records: Records | None, count: int) -> tuple[Answers, ...]:
    """Right answers and wrong ones, at even steps; none of a kind that is not known here.

    Args:
        table: rows of one split.
        records: of the split; None where they are not at hand.
        count: of each.
    """
    found = scores.of(table)
    if found is None:
        return ()
    groups = []
    for good in (True, False):
        places = np.flatnonzero(found.right == good).tolist()
        if not places:
            continue
        rows = found.table.take(pa.array(spread(places, count), pa.int64())).to_pylist()
        how = ", taken at even steps" if len(places) > count else ""
        note = f"{len(rows):,} of {len(places):,}{how}; {len(found.right):,} were asked"
        groups.append(Answers(good, note, tuple(_answered(row, records) for row in rows)))
    return tuple(groups)


def _answered(row: Mapping[str, Any], records: Records | None) -> Answered:
    """A row in words: of a text assignment both pictures are shown."""
    keys = [row[name] for name in ("first", "second") if name in row] or [row["key"]]
    pictures = [records.picture(key) for key in keys] if records else []
    sure = row["probability"] if "probability" in row else max(row.get("probabilities") or [None])
    truths = row["truths"] if "truths" in row else [row["answer"]]
    return Answered(
        pictures=tuple(picture for picture in pictures if picture is not None),
        asked=next((str(row[name]) for name in _ASKED if name in row), ""),
        given=next(str(row[name]) for name in _GIVEN if name in row),
        truth=", ".join(dict.fromkeys(map(str, truths))),
        sure=sure,
    )
