"""The official accuracy, on cases counted by hand."""

import pytest

from albef.tasks.vqa_accuracy import normalised, vqa_accuracy

ALIKE = {
    "Yes": "yes", "two": "2", "none": "0", "The red  hat": "red hat", "3.5": "3.5", "an": "",
    "st. john": "st john", "its": "its", "dog\nor\tcat ": "dog or cat", "(left)": "left",
    "dont": "don't", "Couldnt've": "couldn't've", "couldn'tve": "couldn't've", "twas": "'twas",
    "somebody'd": "somebodyd", "1,000": "1000",
    "yes, it is": "yes it is",  # beside a space a mark goes
    "black/white": "black white",  # inside a word it becomes one
    "t-shirt, 1,000": "tshirt 1000",  # a comma in a number: every mark goes
}  # fmt: skip


def test_answers_are_made_alike() -> None:
    assert {given: normalised(given) for given in ALIKE} == ALIKE


def test_three_others_of_ten_are_enough() -> None:
    """With n of ten who agree, n find n - 1 others and 10 - n find n, of whom three are enough."""
    for agree, expected in {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0, 9: 1.0}.items():
        others = [f"other {i}" for i in range(10 - agree)]
        assert vqa_accuracy("cat", ["cat"] * agree + others) == pytest.approx(expected)


def test_where_annotators_differ_answers_are_made_alike() -> None:
    told = ["Two."] * 4 + ["2"] * 2 + ["three"] * 4
    assert vqa_accuracy("two", told) == 1.0


def test_where_all_say_the_same_it_counts_letter_by_letter() -> None:
    assert vqa_accuracy("two", ["two"] * 10) == 1.0
    assert vqa_accuracy("2", ["two"] * 10) == 0.0
