"""Examples and counts from per-example predictions; chosen at even steps, never by hand."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.report.results import Answer, Example, Gallery, Outcome, Picture, Query

T = TypeVar("T")
PICTURES = 5
"""Pictures shown of the answer to a text."""
TEXTS = 4
"""Texts shown of the answer to a picture."""
RANKED = {"query", "key", "caption", "rank", "rank_itc", "top", "top_itc"}
"""Columns of the predictions of a kind that ranks."""
_NAMES = {"i2t": "picture to text", "t2i": "text to picture"}


class Records(Protocol):
    """The records of a split, as far as examples need them."""

    def picture(self, key: str) -> Picture | None:
        """The picture of a record; None where there is no such record."""

    def same(self, key: str) -> frozenset[str]:
        """Keys of the records that show the same picture, the record's own among them."""

    def captions(self, key: str) -> frozenset[str]:
        """What is truly said of the record's picture."""

    def badge(self, badge: str) -> frozenset[str] | None:
        """Keys of the records with a badge; None where the split knows no such badge."""


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of ``items`` at even steps, in order.

    Each step is one place further in its part than the one before, so that a list whose kinds take
    turns shows all of them.
    """
    count = min(count, len(items))
    return [items[i * len(items) // count + i % (len(items) // count)] for i in range(count)]


def is_ranking(table: pa.Table) -> bool:
    """Whether predictions are those of a kind that ranks."""
    return set(table.column_names) >= RANKED


def outcomes(table: pa.Table, records: Records | None) -> tuple[Outcome, ...]:
    """Who puts the right answer first: by change in a paired split, else by direction."""
    itm = table["rank"].to_numpy() == 0
    itc = table["rank_itc"].to_numpy() == 0
    column = "change" if is_paired(table) else "query"
    found = [
        _outcome(_NAMES.get(label, label), pc.equal(table[column], label).to_numpy(), itm, itc)
        for label in sorted(pc.unique(table[column]).to_pylist())
    ]
    strange = records.badge(UNSEEN) if records else None
    if strange:
        here = pc.is_in(table["key"], pa.array(sorted(strange))).to_numpy()
        found.append(_outcome("things seen together in training", ~here, itm, itc))
        found.append(_outcome("things never seen together", here, itm, itc))
    return tuple(outcome for outcome in found if outcome.total)


UNSEEN = "unseen combination"
"""Badge of a test record that shows what training never shows together."""


def _outcome(
    label: str, rows: NDArray[np.bool_], itm: NDArray[np.bool_], itc: NDArray[np.bool_]
) -> Outcome:
    def count(which: NDArray[np.bool_]) -> int:
        return int((which & rows).sum())

    return Outcome(
        label, count(itm & itc), count(itm & ~itc), count(~itm & itc), count(~itm & ~itc)
    )


def galleries(table: pa.Table, records: Records, count: int) -> tuple[Gallery, ...]:
    """Examples of one split of a kind that ranks, ``count`` a group, right ones and wrong ones."""
    made = _pairs(table, records, count) if is_paired(table) else _ranked(table, records, count)
    return tuple(gallery for gallery in made if gallery.queries)


def rows(table: pa.Table, records: Records | None, count: int) -> tuple[Example, ...]:
    """Some predictions of a kind that does not rank, whatever its columns are."""
    shown = [name for name in table.column_names if name not in ("key", "split")]
    chosen = _take(table, spread(range(table.num_rows), count))
    return tuple(
        Example(
            records.picture(row["key"]) if records and "key" in row else None,
            tuple((name, _text(row[name])) for name in shown if row[name] is not None),
        )
        for row in chosen
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def is_paired(table: pa.Table) -> bool:
    """Whether each query of a ranking is a decision between two."""
    return "change" in table.column_names and table["change"].null_count < table.num_rows


def _ranked(table: pa.Table, records: Records, count: int) -> Iterator[Gallery]:
    ranks, query = table["rank"].to_numpy(), table["query"]
    for name, right_title, wrong_title in (
        ("t2i", "Asked in words, found", "Asked in words, not found first"),
        ("i2t", "Pictures, described right", "Pictures, described wrong"),
    ):
        asked = pc.equal(query, name).to_numpy()
        for good, title in ((True, right_title), (False, wrong_title)):
            places = np.flatnonzero(asked & ((ranks == 0) == good))
            what = "texts" if name == "t2i" else "pictures"
            yield Gallery(
                title=title,
                note=_note(len(places), int(asked.sum()), count, what),
                good=good,
                paired=False,
                queries=_queries(table, spread(places.tolist(), count), records),
            )


def _pairs(table: pa.Table, records: Records, count: int) -> Iterator[Gallery]:
    """Decisions by a text between two pictures: what ITM gains over ITC, and what it gets wrong."""
    itm, itc = table["rank"].to_numpy() == 0, table["rank_itc"].to_numpy() == 0
    asked = pc.equal(table["query"], "t2i").to_numpy()
    for title, good, which in (
        ("Pairs that ITM decides rightly and ITC wrongly", True, itm & ~itc),
        ("Pairs that ITM decides wrongly", False, ~itm),
    ):
        places = np.flatnonzero(asked & which)
        by_change: dict[str, list[int]] = {}
        for place in places.tolist():
            by_change.setdefault(table["change"][place].as_py(), []).append(place)
        kinds = sorted(by_change)
        chosen = [
            place
            for i, change in enumerate(kinds)
            for place in spread(
                by_change[change], count * (i + 1) // len(kinds) - count * i // len(kinds)
            )
        ]
        yield Gallery(
            title=title,
            note=_note(len(places), int(asked.sum()), count, "texts"),
            good=good,
            paired=True,
            queries=_queries(table, chosen, records),
        )


def _note(found: int, total: int, count: int, what: str) -> str:
    how = ", taken at even steps" if found > count else ""
    return f"{min(found, count):,} of {found:,}{how}; {total:,} {what} were asked"


def _queries(table: pa.Table, places: Sequence[int], records: Records) -> tuple[Query, ...]:
    return tuple(_query(row, records) for row in _take(table, places))


def _take(table: pa.Table, places: Sequence[int]) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = table.take(pa.array(places, pa.int64())).to_pylist()
    return taken


def _query(row: dict[str, Any], records: Records) -> Query:
    by_text = row["query"] == "t2i"
    change = row.get("change") or ""
    rights = records.same(row["key"]) if by_text else records.captions(row["key"])
    first_itc = next(iter(row["top_itc"]), None)

    def answer(place: int, value: str) -> Answer:
        return Answer(
            place=place,
            right=value in rights,
            picture=_picture(records, value) if by_text else None,
            text="" if by_text else value,
            by_itc=value == first_itc,
        )

    most = PICTURES if by_text else TEXTS
    shown = row["top"][:most]
    answers = [answer(place, value) for place, value in enumerate(shown, 1)]
    if not any(a.right for a in answers):  # the right one takes the last place, with its rank
        beyond = row["key"] if by_text else min(rights, default="")
        answers = [*answers[: most - 1], answer(row["rank"] + 1, beyond)]
    if change:
        answers.sort(key=lambda a: not a.right)
    return Query(
        text=row["caption"] if by_text else "",
        picture=None if by_text else _picture(records, row["key"]),
        rank=row["rank"],
        rank_itc=row["rank_itc"],
        answers=tuple(answers),
        label=change,
    )


def _picture(records: Records, key: str) -> Picture:
    return records.picture(key) or Picture(key, "")
