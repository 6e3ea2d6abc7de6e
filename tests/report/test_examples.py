"""Examples from predictions written by hand."""

from typing import Any

import pyarrow as pa
import pytest

from albef.report import examples
from albef.report.results import Picture


class Toy:
    """Records a to f; a and b show the same picture."""

    def picture(self, key: str) -> Picture | None:
        return Picture(key, f"data:{key}") if key in "abcdef" else None

    def same(self, key: str) -> frozenset[str]:
        return frozenset("ab") if key in "ab" else frozenset(key)

    def captions(self, key: str) -> frozenset[str]:
        return frozenset(f"says {other}" for other in self.same(key))

    def badge(self, badge: str) -> frozenset[str] | None:
        return None


def row(query: str, key: str, rank: int, rank_itc: int, top: str, top_itc: str, **more: Any) -> Any:
    def listed(order: str) -> list[str]:
        return [f"says {o}" for o in order] if query == "i2t" else list(order)

    return {
        "query": query,
        "key": key,
        "caption": f"says {key}" if query == "t2i" else "",
        "rank": rank,
        "rank_itc": rank_itc,
        "top": listed(top),
        "top_itc": listed(top_itc),
        "change": None,
        **more,
    }


def table(*rows: Any) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def test_texts_show_their_pictures_and_mark_the_right_ones() -> None:
    made = examples.galleries(table(row("t2i", "a", 0, 1, "abcdef", "cabdef")), Toy(), 8)
    assert [(gallery.title, gallery.good) for gallery in made] == [("Asked in words, found", True)]
    (query,) = made[0].queries
    assert query.text == "says a"
    assert [answer.right for answer in query.answers] == [True, True, False, False, False]
    assert [answer.place for answer in query.answers] == [1, 2, 3, 4, 5]
    assert query.answers[0].picture == Picture("a", "data:a")


def test_a_right_answer_beyond_those_shown_is_shown_last_with_its_rank() -> None:
    by_text = row("t2i", "f", 40, 60, "abcde", "abcde")
    by_picture = row("i2t", "f", 7, 9, "abcde", "abcde")
    texts, pictures = examples.galleries(table(by_text, by_picture), Toy(), 8)
    assert not texts.good
    assert not pictures.good
    last = texts.queries[0].answers[-1]
    assert (last.place, last.right, last.picture) == (41, True, Picture("f", "data:f"))
    assert len(texts.queries[0].answers) == examples.PICTURES
    last = pictures.queries[0].answers[-1]
    assert (last.place, last.right, last.text) == (8, True, "says f")
    assert len(pictures.queries[0].answers) == examples.TEXTS


def test_successes_and_failures_are_taken_at_even_steps() -> None:
    asked = [row("t2i", "c", rank, 0, "c", "c") for rank in (0, 1) for _ in range(10)]
    right, wrong = examples.galleries(table(*asked), Toy(), 4)
    assert (len(right.queries), len(wrong.queries)) == (4, 4)
    assert right.note == "4 of 10, taken at even steps; 20 texts were asked"
    assert examples.spread(range(10), 4) == [0, 3, 5, 8]
    assert examples.spread(range(9), 9) == list(range(9))
    assert {place % 4 for place in examples.spread(range(800), 8)} == {0, 1, 2, 3}
    assert examples.spread([1, 2], 8) == [1, 2]
    assert examples.spread([], 8) == []


def test_pairs_show_what_itm_gains_over_itc_change_by_change() -> None:
    rows = [
        row("t2i", "c", 0, 1, "cd", "dc", change=change)
        for change in ("count", "object", "relation")
        for _ in range(6)
    ]
    rows.append(row("t2i", "e", 1, 0, "fe", "ef", change="count"))
    rows.append(row("i2t", "e", 0, 1, "ef", "fe", change="count"))
    gained, lost = examples.galleries(table(*rows), Toy(), 6)
    assert gained.paired
    assert [query.label for query in gained.queries] == [
        "count", "count", "object", "object", "relation", "relation",
    ]  # fmt: skip
    right, other = gained.queries[0].answers
    assert (right.right, right.place, right.by_itc) == (True, 1, False)
    assert (other.right, other.place, other.by_itc) == (False, 2, True)
    assert not lost.good
    assert [answer.place for answer in lost.queries[0].answers] == [2, 1], "the right one is left"


def test_outcomes_count_who_is_right_first() -> None:
    made = examples.outcomes(
        table(
            row("t2i", "a", 0, 0, "a", "a"),
            row("t2i", "b", 0, 3, "b", "a"),
            row("t2i", "c", 2, 0, "a", "c"),
            row("i2t", "c", 2, 2, "a", "a"),
        ),
        None,
    )
    assert [(o.label, o.both, o.itm, o.itc, o.neither) for o in made] == [
        ("picture to text", 0, 0, 0, 1),
        ("text to picture", 1, 1, 1, 0),
    ]
    assert made[1].total == 3


def test_outcomes_tell_unseen_combinations_apart() -> None:
    class Strange(Toy):
        def badge(self, badge: str) -> frozenset[str] | None:
            return frozenset("a") if badge == examples.UNSEEN else None

    rows = table(row("t2i", "a", 0, 0, "a", "a"), row("t2i", "c", 1, 1, "a", "a"))
    made = {outcome.label: outcome for outcome in examples.outcomes(rows, Strange())}
    assert made["things never seen together"].both == 1
    assert made["things seen together in training"].neither == 1


def test_predictions_of_a_kind_that_does_not_rank_are_shown_as_they_are() -> None:
    rows = table(
        {"split": "test", "key": "a", "question": "how many?", "answer": "2", "score": 0.25},
        {"split": "test", "key": "z", "question": "what?", "answer": None, "score": 1.0},
    )
    assert not examples.is_ranking(rows)
    first, second = examples.rows(rows, Toy(), 8)
    assert first.picture == Picture("a", "data:a")
    assert first.fields == (("question", "how many?"), ("answer", "2"), ("score", "0.25"))
    assert second.picture is None
    assert second.fields == (("question", "what?"), ("score", "1"))


def test_a_picture_that_is_gone_leaves_a_gap() -> None:
    made = examples.galleries(table(row("t2i", "c", 0, 0, "cz", "cz")), Toy(), 1)
    assert made[0].queries[0].answers[1].picture == Picture("z", "")


@pytest.mark.parametrize("missing", ["top", "rank_itc", "query"])
def test_ranking_is_told_by_its_columns(missing: str) -> None:
    full = table(row("t2i", "c", 0, 0, "c", "c"))
    assert examples.is_ranking(full)
    assert not examples.is_ranking(full.drop_columns([missing]))
