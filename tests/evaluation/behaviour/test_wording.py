"""Words that are swapped, replaced and miscounted."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from albef.evaluation.behaviour import wording
from albef.evaluation.behaviour.suite import read_suite

ENGLISH = read_suite(Path(__file__).parents[3] / "behaviour/english.json")
SWAP = ENGLISH.tests["left_right"].swap or ()
ALIKE = ENGLISH.tests["synonym"].alike or ()
NUMBERS = ENGLISH.tests["count"].numbers or ()
COMMON = ENGLISH.common


SWAPPED: tuple[tuple[str, list[str]], ...] = (
    ("two apples left of a key", ["two apples right of a key"]),
    (
        "a key on the left and three frogs on the right",
        ["a key on the right and three frogs on the left"],
    ),
    ("A man to the Left of an airplane.", ["A man to the right of an airplane."]),
    ("the leftmost of four dogs", ["the rightmost of four dogs"]),
    ("a hat in the left corner", ["a hat in the right corner"]),
    ("the train has left the station", []),  # no place is meant
    ("right next to the bridge", []),
)


def test_left_and_right_are_swapped_where_they_are_places() -> None:
    for text, becomes in SWAPPED:
        assert list(wording.swapped(text, SWAP)) == becomes


@given(st.lists(st.sampled_from(["a dog", "left of", "on the right", "key", "far left", ","])))
def test_swapping_twice_gives_the_text_again(words: list[str]) -> None:
    text = " ".join(words)
    for once in wording.swapped(text, SWAP):
        assert list(wording.swapped(once, SWAP)) == [text]


REWORDED: tuple[tuple[str, list[str]], ...] = (
    (
        "two apples left of a key",
        ["two apples to the left of a key", "two apples on the left and a key on the right"],
    ),
    (
        "a fox at the top and a bus at the bottom",
        ["a fox above a bus", "a fox above and a bus below", "a fox over a bus"],
    ),
    ("only three frogs", ["three frogs and nothing else"]),
    ("a kid on an airplane", ["a kid on a plane", "a child on an airplane"]),
    ("A couch.", ["A sofa."]),
    ("couches", ["sofas"]),
    ("a dog left of a cat left of a cow", []),  # could be read in two ways
    ("a man to the right of", []),
    ("left of a dog", []),
    ("a rugged man", []),
)


def test_a_phrase_becomes_one_that_means_the_same() -> None:
    # The article is as its phrase asks for, in small letters; models read no others.
    for text, becomes in REWORDED:
        found = wording.reworded(text, ALIKE, COMMON)
        assert [option.lower() for option in found] == [option.lower() for option in becomes]


COUNTED: tuple[tuple[str, list[str]], ...] = (
    ("two dogs above three keys", ["three dogs above three keys", "two dogs above four keys"]),
    ("only four snails", ["only three snails"]),  # the data know no five
    ("a key", []),
    ("one of the players", []),
)


def test_a_count_becomes_the_next_that_the_data_have() -> None:
    for text, becomes in COUNTED:
        assert list(wording.miscounted(text, NUMBERS, {"two", "three", "four"})) == becomes
