"""Examples and counts from per-example predictions; chosen at even steps, never by hand.

Texts are shown as they are and are not trusted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.data.boxes import RIGHT
from albef.report import scores
from albef.report.pictures import Picture, SplitRecords, draw_located, spread

PICTURES = 5
"""Pictures shown of the answer to a text."""
TEXTS = 4
"""Texts shown of the answer to a picture."""
_RANKED = {"query", "key", "caption", "rank", "rank_itc", "top", "top_itc"}
_LOCATED = {"key", "expression", "truth", "box", "iou", "map_box", "map_iou", "heat"}
_DIRECTIONS = {"i2t": "picture to text", "t2i": "text to picture"}


@dataclass(frozen=True)
class Candidate:
    """A ranked answer to a query, a picture or a text; ``place`` counts from 1."""

    place: int
    right: bool
    by_itc: bool
    """Whether ITC alone puts it first."""
    picture: Picture | None = None
    text: str = ""


@dataclass(frozen=True)
class Query:
    """A text or a picture, and the first answers to it, the right one last where it comes later."""

    text: str
    picture: Picture | None
    rank: int | None
    """Of the best right answer, from 0, after ITM; None where ITM was not asked about it."""
    rank_itc: int
    answers: Sequence[Candidate]
    label: str = ""
    """What kind of question it is, as the change of a pair."""


@dataclass(frozen=True)
class Answer:
    """What a model says to a question or statement, "" where there is none, about pictures."""

    right: bool
    pictures: Sequence[Picture]
    question: str
    given: str
    truth: str
    sure: float | None
    """Probability of the answer given, from 0 to 1; None where it is not known."""


@dataclass(frozen=True)
class Place:
    """An expression, and the picture under the heat map with the boxes drawn into it."""

    right: bool
    picture: Picture
    expression: str
    note: str


@dataclass(frozen=True)
class Group:
    """Examples that belong together, at least one."""

    look: str
    """How they are drawn, which says what they are: ``texts``, ``images`` or ``pairs``
    (:class:`Query`), ``answers`` or ``places``."""
    title: str
    note: str
    """How they were chosen and out of how many."""
    good: bool | None
    """Whether the model is right in them; None where that is mixed, or not known."""
    examples: Sequence[Any]


@dataclass(frozen=True)
class Outcome:
    """Queries of one group by who puts the right answer first: ITM and ITC, one, or none."""

    label: str
    counts: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """All queries of the group."""
        return sum(self.counts)

    @property
    def parts(self) -> list[tuple[int, str, str]]:
        """Each count, with its class and what it counts, in words."""
        words = {"both": "ITM and ITC", "gain": "ITM alone", "loss": "ITC alone", "none": "neither"}
        pairs = zip(self.counts, words.items(), strict=True)
        return [(count, look, f"{text}: {count:,}") for count, (look, text) in pairs]


def read(
    table: pa.Table, records: SplitRecords | None, count: int, rerank_k: int | None = None
) -> list[Group]:
    """Examples of the predictions on one split, as fits their columns, and as far as its records
    are at hand; ``count`` of each group.

    Of a ranking the first ``rerank_k`` by ITC were re-ranked by ITM, or all.
    """
    table = scores.filled(table)
    columns = set(table.column_names)
    if columns >= _LOCATED:
        groups = _places(table, records, count) if records else iter(())
    elif columns >= _RANKED:
        draw = _pairs if is_paired(table) else _directions
        groups = draw(table, records, count, rerank_k) if records else iter(())
    else:
        groups = _answers(table, records, (count + 1) // 2)
    return [group for group in groups if group.examples]


def is_paired(table: pa.Table) -> bool:
    """Whether each query of a ranking is a decision between two."""
    return "change" in table.column_names and table["change"].null_count < table.num_rows


def outcomes(table: pa.Table, records: SplitRecords | None) -> list[Outcome]:
    """Who puts the right answer first: by change in a paired split, else by direction; empty of a
    kind that does not rank."""
    table = scores.filled(table)
    if not set(table.column_names) >= _RANKED:
        return []
    itm = table["rank"].to_numpy() == 0
    itc = table["rank_itc"].to_numpy() == 0
    column = "change" if is_paired(table) else "query"

    def outcome(label: str, selected: NDArray[np.bool_]) -> Outcome:
        parts = (itm & itc, itm & ~itc, ~itm & itc, ~itm & ~itc)
        both, gain, loss, none = (int((part & selected).sum()) for part in parts)
        return Outcome(label, (both, gain, loss, none))

    groups = [
        outcome(_DIRECTIONS.get(label, label), pc.equal(table[column], label).to_numpy())
        for label in sorted(pc.unique(table[column]).to_pylist())
    ]
    if records and (unseen_keys := records.unseen()):
        unseen = pc.is_in(table["key"], pa.array(unseen_keys)).to_numpy()
        groups.append(outcome("things seen together in training", ~unseen))
        groups.append(outcome("things never seen together", unseen))
    return [group for group in groups if group.total]


def _take(table: pa.Table, places: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.take(pa.array(places, pa.int64())).to_pylist()
    return rows


def _note(total: int, query_count: int, count: int, noun: str = "") -> str:
    selection = ", taken at even steps" if total > count else ""
    return f"{min(total, count):,} of {total:,}{selection}; {query_count:,} {noun}were asked"


def _directions(
    table: pa.Table, records: SplitRecords, count: int, rerank_k: int | None
) -> Iterator[Group]:
    """Queries of each direction, right ones and wrong ones."""
    ranks, query = table["rank"].to_numpy(), table["query"]
    for direction, look, noun, right_title, wrong_title in (
        ("t2i", "texts", "texts ", "Asked in words, found", "Asked in words, not found first"),
        ("i2t", "images", "pictures ", "Pictures, described right", "Pictures, described wrong"),
    ):
        is_query = pc.equal(query, direction).to_numpy()
        for good, title in ((True, right_title), (False, wrong_title)):
            places = np.flatnonzero(is_query & ((ranks == 0) == good)).tolist()
            rows = _take(table, spread(places, count))
            note = _note(len(places), int(is_query.sum()), count, noun)
            yield Group(look, title, note, good, [_query(row, records, rerank_k) for row in rows])


def _pairs(
    table: pa.Table, records: SplitRecords, count: int, rerank_k: int | None
) -> Iterator[Group]:
    """Decisions by a text between two pictures: what ITM gains over ITC, and what it gets wrong."""
    itm, itc = table["rank"].to_numpy() == 0, table["rank_itc"].to_numpy() == 0
    is_query = pc.equal(table["query"], "t2i").to_numpy()
    for title, good, is_case in (
        ("Pairs that ITM decides rightly and ITC wrongly", True, itm & ~itc),
        ("Pairs that ITM decides wrongly", False, ~itm),
    ):
        places = np.flatnonzero(is_query & is_case).tolist()
        places.sort(key=lambda place: table["change"][place].as_py())
        note = _note(len(places), int(is_query.sum()), count, "texts ")
        rows = _take(table, spread(places, count))
        queries = [_query(row, records, rerank_k) for row in rows]
        yield Group("pairs", title, note, good, queries)


def _query(row: Mapping[str, Any], records: SplitRecords, rerank_k: int | None) -> Query:
    by_text = row["query"] == "t2i"
    change = row.get("change") or ""
    rights = records.same(row["key"]) if by_text else records.captions(row["key"])

    def picture(key: str) -> Picture:
        return records.picture(key) or Picture(key)

    def candidate(place: int, value: str) -> Candidate:
        shown = picture(value) if by_text else None
        by_itc = row["top_itc"][:1] == [value]
        return Candidate(place, value in rights, by_itc, shown, "" if by_text else value)

    is_ranked = not rerank_k or row["rank_itc"] < rerank_k
    limit = PICTURES if by_text else TEXTS
    answers = [candidate(place, value) for place, value in enumerate(row["top"][:limit], 1)]
    if not any(answer.right for answer in answers):  # it takes the last place, with its rank
        right_answer = row["key"] if by_text else min(rights, default="")
        place = row["rank" if is_ranked else "rank_itc"] + 1
        answers = [*answers[: limit - 1], candidate(place, right_answer)]
    if change:
        answers.sort(key=lambda answer: not answer.right)
    return Query(
        text=row["caption"] if by_text else "",
        picture=None if by_text else picture(row["key"]),
        rank=row["rank"] if is_ranked else None,
        rank_itc=row["rank_itc"],
        answers=answers,
        label=change,
    )


def _places(table: pa.Table, records: SplitRecords, count: int) -> Iterator[Group]:
    """Boxes, half of them right as far as there are."""
    right = table["iou"].to_numpy() >= RIGHT
    good, bad = np.flatnonzero(right).tolist(), np.flatnonzero(~right).tolist()
    chosen = spread(good, max(count - count // 2, count - len(bad)))
    chosen += spread(bad, count - len(chosen))
    places = [
        Place(
            row["iou"] >= RIGHT,
            draw_located(records, row),
            row["expression"],
            f"IoU {row['iou']:.2f}, of the map's own box {row['map_iou']:.2f}",
        )
        for row in _take(table, chosen)
    ]
    note = (
        "half of them right and half wrong, as far as there are, taken at even steps. The heat is "
        "Grad-CAM"
    )
    yield Group("places", "Where the model looks", note, None, places)


def _answers(table: pa.Table, records: SplitRecords | None, count: int) -> Iterator[Group]:
    """Right answers and wrong ones, ``count`` each; none of a table without answers and truths."""
    scored = scores.of(table)
    if scored is None or not (scored.columns.get("given") and scored.columns.get("truth")):
        return
    for good, title in ((True, "Answered right"), (False, "Answered wrong")):
        places = np.flatnonzero(scored.right == good).tolist()
        if places:
            rows = _take(scored.table, spread(places, count))
            note = _note(len(places), len(scored.right), count)
            answers = [_answer(row, scored.columns, records, good) for row in rows]
            yield Group("answers", title, note, good, answers)


def _answer(
    row: Mapping[str, Any], columns: Mapping[str, Any], records: SplitRecords | None, right: bool
) -> Answer:
    pictures = [records.picture(row[name]) for name in columns["pictures"]] if records else []
    probabilities = row.get("probabilities") or [None]
    return Answer(
        right=right,
        pictures=[picture for picture in pictures if picture is not None],
        question=str(row[columns["question"]]) if columns["question"] else "",
        given=str(row[columns["given"]]),
        truth=scores.truth_of(row, columns),
        sure=row.get("probability", max(probabilities)),
    )
