"""Expressions: each means one of four things, and says nothing of where it is."""

from collections import Counter

from albef.builtin import expressions
from albef.builtin.expressions import split_of, unseen
from albef.data.record import Record
from tests.builtin.drawn import draw, inside, of


def shown(record: Record) -> tuple[str, ...]:
    return tuple(sorted({thing["name"] for thing in record.meta["objects"]}))


def test_proposals_are_the_boxes_of_the_four_things() -> None:
    made = draw("expressions")
    for record in made:
        boxes = [thing["box"] for thing in record.meta["objects"]]
        assert len(boxes) == 4
        assert len(shown(record)) == expressions.KINDS[record.meta["type"]]
        assert sorted(boxes) == sorted(record.meta["proposals"])
        assert record.meta["box"] in boxes
        areas = [width * height for _, _, width, height in boxes]
        assert inside(record).sum() == sum(areas)  # no box overlaps another
    places = Counter(record.meta["proposals"].index(record.meta["box"]) for record in made)
    assert len(places) == 4
    assert max(places.values()) < 0.45 * len(made)


def test_an_expression_is_true_of_the_thing_that_is_meant_alone() -> None:
    for record in draw("expressions"):
        _, name, *rest = record.captions[0].split()
        things, meant = record.meta["objects"], record.meta["box"]
        named = [thing["box"] for thing in things if thing["name"] == name]
        assert meant in named
        if record.meta["type"] == "name":
            assert (rest, len(named)) == ([], 1)
            continue
        assert rest[:2] == ["beside", "the"]
        (other,) = [thing["box"] for thing in things if thing["name"] == rest[2]]
        assert len(named) == 2
        # Of the two, the meant one alone stands in the row of the other thing.
        rows = sorted(things, key=lambda thing: thing["box"][1] + thing["box"][3] / 2)
        row = next(two for two in (rows[:2], rows[2:]) if other in [t["box"] for t in two])
        assert [t["box"] for t in row if t["name"] == name] == [meant]


def test_no_combination_is_in_two_splits_for_any_seed() -> None:
    made = draw("expressions")
    together = made + draw("expressions", 2)
    assert len({record.image for record in together}) == len(together)
    for record in together:
        assert split_of(shown(record)) == record.split
        assert record.meta["unseen"] is unseen(shown(record))
        assert not (record.meta["unseen"] and record.split == "train")
    test = of(made, "test")
    assert sum(record.meta["unseen"] for record in test) == round(0.2 * len(test))
    assert len(set(map(shown, test))) == len(test)
