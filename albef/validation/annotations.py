"""Kinds and annotations of records, inferred from their content.

Tasks find the annotations of a record by their names in ``meta``, and this module does the same. A
record with annotations is a question, statement, comparison or expression, no matter who made it.
All other records are captions.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from albef.data.boxes import MIN_IOU, iou, is_box

KINDS = ("captions", "questions", "statements", "comparisons", "expressions")
"""Kinds of records. Each has a suite of the same name."""
_FIELDS = r'"(?:label|answers|question_id|box|proposals|ref_id)": '
_SLACK = 1.0  # pixels by which a box may leave its image, since coordinates are rounded
_ROWS = 1 << 16  # rows of the index that are read at a time


def annotations(index: pa.Table) -> pd.DataFrame:
    """Return the kind and the annotations of each record, in order.

    Returns:
        A table with one row per record:

        - ``kind``: the kind of most records of its source.
        - ``label``: the label, or the answer of a question with the highest weight.
        - ``answers``: number of answers.
        - ``box``: ``within`` if the box and all proposals lie in the image, else ``outside``.
        - ``proposed``: ``yes`` if a proposal overlaps the box by half, else ``no``.

        A missing value is null, unless the kind requires it. A required value that is missing is
        ``label`` "", ``answers`` 0 or ``box`` ``missing``. The training split requires the values
        of its kind. Another split requires a value if other records of the same source and split
        have it.
    """
    batches = index.select(["meta", "width", "height"]).to_batches(max_chunksize=_ROWS)
    rows = [row for batch in batches for row in _rows(batch)]
    frame = pd.DataFrame(rows, columns=["own", "label", "answers", "box", "proposed"])
    frame["source"] = index["source"].to_pandas()
    frame["split"] = index["split"].to_pandas()
    if "more" in index.column_names:
        frame["own"] = np.where(frame["own"] == "captions", "comparisons", frame["own"])
        frame["own"] = frame["own"].replace("statements", "comparisons")
    counts = frame.groupby(["source", "own"]).size().reset_index(name="count")
    counts["order"] = counts["own"].map(KINDS.index)
    ranked = counts.sort_values(["count", "order"], ascending=[False, True])
    frame["kind"] = frame["source"].map(ranked.drop_duplicates("source").set_index("source")["own"])
    for name, kinds, missing in (
        ("label", ("statements", "comparisons"), ""),
        ("answers", ("questions",), 0),
        ("box", ("expressions",), "missing"),
    ):
        annotated = frame[name].notna().groupby([frame["source"], frame["split"]]).transform("any")
        required = frame["kind"].isin(kinds) & (annotated | (frame["split"] == "train"))
        frame[name] = frame[name].where(~(required & frame[name].isna()), missing)
    return frame[["kind", "label", "answers", "box", "proposed"]]


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    annotated = pc.match_substring_regex(batch["meta"], _FIELDS).to_pylist()
    columns = (column.to_pylist() for column in batch.columns)
    for has, meta, width, height in zip(annotated, *columns, strict=True):
        yield _annotated(json.loads(meta), (width, height)) if has else _NOTHING


_NOTHING = ("captions", None, None, None, None)


def _annotated(meta: Mapping[str, Any], size: tuple[int, int]) -> tuple[Any, ...]:
    if meta.keys() & {"answers", "question_id"}:
        answers = meta.get("answers")
        if not isinstance(answers, Mapping) or not answers:
            return ("questions", None, None, None, None)
        heaviest = min(answers, key=lambda answer: (-_weight(answers[answer]), answer))
        return ("questions", heaviest, len(answers), None, None)
    if meta.keys() & {"box", "proposals", "ref_id"}:
        return ("expressions", None, None, *_located(meta, size))
    if "label" in meta:
        label = meta["label"]
        return ("statements", label if isinstance(label, str) else None, None, None, None)
    return _NOTHING


def _weight(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _located(meta: Mapping[str, Any], size: tuple[int, int]) -> tuple[str | None, str | None]:
    """Return whether all boxes lie in the image, and whether a proposal matches the true box."""
    box, proposals = meta.get("box"), meta.get("proposals")
    if box is None:
        return None, None
    proposals = proposals if isinstance(proposals, list) else []
    within = "within" if all(_within(region, size) for region in [box, *proposals]) else "outside"
    if not proposals:
        return within, None
    right = any(
        is_box(region) and iou(region, box) >= MIN_IOU for region in proposals if is_box(box)
    )
    return within, "yes" if right else "no"


def _within(box: Any, size: tuple[int, int]) -> bool:
    if not is_box(box) or min(box[2:]) <= 0:
        return False
    ends = (box[0] + box[2], box[1] + box[3])
    return min(box[:2]) >= -_SLACK and all(
        end <= side + _SLACK for end, side in zip(ends, size, strict=True)
    )
