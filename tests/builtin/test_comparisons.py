"""Comparisons: the label follows from both pictures, and nothing follows from the text."""

import re
from collections import Counter, defaultdict

from albef.builtin import comparisons
from albef.builtin.comparisons import Comparison
from albef.builtin.describe import Group, Scene
from tests.builtin.drawn import draw, scenes_of
from tests.builtin.test_describe import parse


def read(text: str) -> Comparison:
    """What a sentence says, from its words alone."""
    forms = {
        r"(.+) in the first picture and (.+) in the second"
        r"|the first picture with (.+) and the second with (.+)": "order",
        r"(.+) in the first picture|the first picture with (.+)": "first",
        r"(.+) in the second picture|the second picture with (.+)": "second",
        r"(.+) in both pictures|both pictures with (.+)": "both",
        r"(.+) in only one picture|only one picture with (.+)": "one",
        r"(.+) in neither picture|neither picture with (.+)": "neither",
    }
    for pattern, form in forms.items():
        if match := re.fullmatch(pattern, text):
            claims = [parse(words) for words in match.groups() if words]
            scenes = [Scene(claim.groups, claim.relation).canonical() for claim in claims]
            return Comparison(form, *scenes)  # type: ignore[arg-type]
    raise AssertionError(text)


ONE, TWO = Scene((Group("apple", 1),)), Scene((Group("apple", 2), Group("key", 1)), "left")


def test_truth() -> None:
    for comparison, first, second, truth in (
        (Comparison("both", ONE), ONE, ONE, True),
        (Comparison("both", ONE), ONE, TWO, False),
        (Comparison("one", ONE), ONE, TWO, True),
        (Comparison("one", ONE), ONE, ONE, False),
        (Comparison("neither", ONE), TWO, TWO, True),
        (Comparison("order", ONE, TWO), ONE, TWO, True),
        (Comparison("order", ONE, TWO), TWO, ONE, False),
        (Comparison("first", ONE), ONE, TWO, True),
        (Comparison("first", ONE), TWO, ONE, False),
        (Comparison("second", ONE), ONE, TWO, False),
    ):
        assert comparison.true_of(first, second) is truth, comparison


def test_each_label_is_right() -> None:
    for record in draw("comparisons"):
        truth = read(record.captions[0]).true_of(*scenes_of(record))
        assert record.meta["label"] == str(truth), record.key


def test_each_sentence_is_as_often_true_as_false() -> None:
    labels: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in draw("comparisons"):
        labels[record.split, record.captions[0]][record.meta["label"]] += 1
    assert all(counted["True"] == counted["False"] for counted in labels.values())
    assert {record.meta["form"] for record in draw("comparisons")} == set(comparisons.FORMS)


def test_one_image_says_nothing_about_the_other() -> None:
    shown: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for record in draw("comparisons"):
        form = record.meta["form"]
        if form in ("first", "second"):
            other = scenes_of(record)[form == "first"]
            shown[form, record.meta["label"]][read(record.captions[0]).a == other] += 1
    assert len(shown) == 4
    for counted in shown.values():
        assert 0.2 < counted[True] / counted.total() < 0.8
