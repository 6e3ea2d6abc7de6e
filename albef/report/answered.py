"""Examples of kinds that answer: right and wrong ones, as far as there are of both."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from albef.report import scores
from albef.report.examples import Records, spread
from albef.report.results import Answered, Answers


def answers(table: pa.Table, records: Records | None, count: int) -> tuple[Answers, ...]:
    """Right answers and wrong ones, at even steps; none of a table without answers and truths.

    Args:
        table: rows of one split.
        records: of the split; None where they are not at hand.
        count: of each.
    """
    found = scores.of(table)
    if found is None or not (found.columns.get("given") and found.columns.get("truth")):
        return ()
    groups = []
    for good in (True, False):
        places = np.flatnonzero(found.right == good).tolist()
        if not places:
            continue
        rows = found.table.take(pa.array(spread(places, count), pa.int64())).to_pylist()
        how = ", taken at even steps" if len(places) > count else ""
        note = f"{len(rows):,} of {len(places):,}{how}; {len(found.right):,} were asked"
        groups.append(
            Answers(good, note, tuple(_answered(row, found.columns, records) for row in rows))
        )
    return tuple(groups)


def _answered(
    row: Mapping[str, Any], columns: Mapping[str, Any], records: Records | None
) -> Answered:
    """A row in words, with all pictures that the model saw."""
    pictures = [records.picture(row[name]) for name in columns["pictures"]] if records else []
    sure = row["probability"] if "probability" in row else max(row.get("probabilities") or [None])
    truths = row[columns["truth"]]
    return Answered(
        pictures=tuple(picture for picture in pictures if picture is not None),
        asked=str(row[columns["question"]]) if columns["question"] else "",
        given=str(row[columns["given"]]),
        truth=", ".join(dict.fromkeys(truths)) if isinstance(truths, list) else str(truths),
        sure=sure,
    )
