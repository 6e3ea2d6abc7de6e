"""Examples from per-example predictions, sampled evenly and never selected by hand.

Texts are not trusted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from albef.report import scores
from albef.report.thumbnails import SplitRecords, Thumbnail, draw_located, sample

_IMAGES, _TEXTS = 5, 4  # shown as answers to a text and to an image
_RANKED = {"query", "key", "caption", "rank", "rank_itc", "top", "top_itc"}
_DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}


@dataclass(frozen=True)
class Candidate:
    """A ranked answer to a query, an image or a text; ``position`` counts from 1."""

    position: int
    right: bool
    by_itc: bool
    """True if ITC alone ranks it first."""
    thumbnail: Thumbnail | None = None
    text: str = ""


@dataclass(frozen=True)
class Query:
    """A text or image query, its first answers, and the correct answer."""

    text: str
    thumbnail: Thumbnail | None
    rank: int | None
    """Rank of the best correct answer, from 0; None if ITM did not score it."""
    rank_itc: int
    answers: Sequence[Candidate]
    label: str = ""
    """Change of a pair; for the median query, the queries that it was taken from."""


@dataclass(frozen=True)
class Answer:
    """A model's answer about images; ``question`` is "" if the kind has none."""

    right: bool
    thumbnails: Sequence[Thumbnail]
    question: str
    given: str
    truth: str
    probability: float | None
    """Probability of the given answer, from 0 to 1; None if unknown."""


@dataclass(frozen=True)
class Group:
    """Examples of one group, at least one."""

    layout: str
    """``texts``, ``images`` or ``pairs`` (:class:`Query`); ``answers`` or ``located``."""
    title: str
    note: str
    """Selection of the examples, and out of how many."""
    good: bool
    """True if all answers are correct, False if none is."""
    examples: Sequence[Any]


def read(
    table: pa.Table, records: SplitRecords | None, count: int, rerank_k: int | None = None
) -> list[Group]:
    """Return examples of the predictions on one split, ``count`` per group.

    The columns of the table decide the groups. Some groups need the split's records. ITM re-ranked
    the first ``rerank_k`` answers of ITC; None means all.
    """
    table = scores.drop_null_columns(table)
    if set(table.column_names) >= _RANKED:
        draw = _pairs if is_paired(table) else _directions
        groups = draw(table, records, count, rerank_k) if records else iter(())
    else:
        groups = _answers(table, records, (count + 1) // 2)
    return [group for group in groups if group.examples]


def is_paired(table: pa.Table) -> bool:
    """Return whether each query of a ranking is a decision between two."""
    return "change" in table.column_names and table["change"].null_count < table.num_rows


def median_query(
    table: pa.Table, records: SplitRecords, rerank_k: int | None = None
) -> Query | None:
    """Return the text query whose correct image has the median rank; None if there is none.

    A query of a paired split does not count.
    """
    table = scores.drop_null_columns(table)
    if not set(table.column_names) >= _RANKED or is_paired(table):
        return None
    asked = table.filter(pc.equal(table["query"], "t2i"))
    if not asked.num_rows:
        return None
    itm, itc = asked["rank"].to_numpy(), asked["rank_itc"].to_numpy()
    order = np.argsort(np.where(itc < rerank_k, itm, itc) if rerank_k else itm, kind="stable")
    [row] = _take(asked, [int(order[len(order) // 2])])
    label = f"{asked.num_rows:,} text queries"
    return replace(_query(row, records, rerank_k), label=label)


def _take(table: pa.Table, indices: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.take(pa.array(indices, pa.int64())).to_pylist()
    return rows


def _note(total: int, query_count: int, count: int, noun: str) -> str:
    selection = ", an even sample" if total > count else ""
    return f"{min(total, count):,} of {total:,}{selection}; {query_count:,} {noun} in total"


def _directions(
    table: pa.Table, records: SplitRecords, count: int, rerank_k: int | None
) -> Iterator[Group]:
    for direction, noun in (("t2i", "texts"), ("i2t", "images")):
        asked = table.filter(pc.equal(table["query"], direction))
        for good in (True, False):
            found = np.flatnonzero((asked["rank"].to_numpy() == 0) == good).tolist()
            queries = [_query(row, records, rerank_k) for row in _take(asked, sample(found, count))]
            title = f"{_DIRECTIONS[direction].capitalize()}, {'correct' if good else 'wrong'}"
            yield Group(noun, title, _note(len(found), len(asked), count, noun), good, queries)


def _pairs(
    table: pa.Table, records: SplitRecords, count: int, rerank_k: int | None
) -> Iterator[Group]:
    """Yield decisions between two images by a text: gains of ITM over ITC, and errors of ITM."""
    asked = table.filter(pc.equal(table["query"], "t2i"))
    itm, itc = asked["rank"].to_numpy() == 0, asked["rank_itc"].to_numpy() == 0
    for title, good, is_case in (
        ("Pairs that only ITM decides correctly", True, itm & ~itc),
        ("Pairs that ITM decides wrongly", False, ~itm),
    ):
        found = np.flatnonzero(is_case).tolist()
        found.sort(key=lambda index: asked["change"][index].as_py())
        queries = [_query(row, records, rerank_k) for row in _take(asked, sample(found, count))]
        yield Group("pairs", title, _note(len(found), len(asked), count, "texts"), good, queries)


def _query(row: Mapping[str, Any], records: SplitRecords, rerank_k: int | None) -> Query:
    by_text = row["query"] == "t2i"
    change = row.get("change") or ""
    rights = records.same(row["key"]) if by_text else records.captions(row["key"])

    def thumbnail(key: str) -> Thumbnail:
        return records.thumbnail(key) or Thumbnail(key)

    def candidate(position: int, value: str) -> Candidate:
        shown = thumbnail(value) if by_text else None
        by_itc = row["top_itc"][:1] == [value]
        return Candidate(position, value in rights, by_itc, shown, "" if by_text else value)

    is_ranked = not rerank_k or row["rank_itc"] < rerank_k
    limit = _IMAGES if by_text else _TEXTS
    answers = [candidate(position, value) for position, value in enumerate(row["top"][:limit], 1)]
    # The correct answer takes the last position, with its rank.
    if not any(answer.right for answer in answers):
        right_answer = row["key"] if by_text else min(rights, default="")
        position = row["rank" if is_ranked else "rank_itc"] + 1
        answers = [*answers[: limit - 1], candidate(position, right_answer)]
    if change:
        answers.sort(key=lambda answer: not answer.right)
    return Query(
        text=row["caption"] if by_text else "",
        thumbnail=None if by_text else thumbnail(row["key"]),
        rank=row["rank"] if is_ranked else None,
        rank_itc=row["rank_itc"],
        answers=answers,
        label=change,
    )


def _answers(table: pa.Table, records: SplitRecords | None, count: int) -> Iterator[Group]:
    """Yield correct and wrong answers or boxes, ``count`` each; none if nothing says the truth."""
    scored = scores.from_table(table)
    is_located = "heat" in table.column_names
    needed = () if is_located else ("given", "truth")
    if scored is None or not all(scored.columns.get(name) for name in needed):
        return
    layout, noun = ("located", "boxes") if is_located else ("answers", "answers")
    for good, title in ((True, f"Correct {noun}"), (False, f"Wrong {noun}")):
        found = np.flatnonzero(scored.right == good).tolist()
        rows = _take(scored.table, sample(found, count))
        answers = [_answer(row, scored.columns, records, good) for row in rows]
        yield Group(layout, title, _note(len(found), len(scored.right), count, noun), good, answers)


def _answer(
    row: Mapping[str, Any], columns: Mapping[str, Any], records: SplitRecords | None, right: bool
) -> Answer:
    question = str(row[columns["question"]]) if columns["question"] else ""
    if "heat" in row:
        given = f"IoU {row['iou']:.2f}, hottest region {row['map_iou']:.2f}"
        thumbnails = [draw_located(records, row)] if records else []
        return Answer(right, thumbnails, question, given, truth="", probability=None)
    found = [records.thumbnail(row[name]) for name in columns["pictures"]] if records else []
    return Answer(
        right=right,
        thumbnails=[thumbnail for thumbnail in found if thumbnail is not None],
        question=question,
        given=str(row[columns["given"]]),
        truth=scores.format_truth(row, columns),
        probability=row.get("probability", max(row.get("probabilities") or [None])),
    )
