"""The page of a comparison: safe, whole, and in plain words where something is missing."""

from dataclasses import replace

from albef.evaluation.statistics import Interval, Spread
from albef.report.comparison import Comparison, Paired, SeedRow, Side, Split, metrics_of, render
from albef.report.flips import Flip, flips
from albef.report.thumbnails import Thumbnail
from tests.report.test_page import Page
from tests.report.test_scores import PAIRED, predicted, scored


def full() -> Comparison:
    """A comparison with everything."""
    text = "a dog"
    thumbnail = Thumbnail(text, "data:image/png;base64,AA==", (text,))
    turned = (Flip(text, thumbnail, text, text, text), Flip(text, None, "", text, text))
    paired = Paired(
        0, 1, text, 80, 100, 12.5, Interval(3.0, 22.0), 14, 4, 0.031, turned, turned[:1]
    )
    metrics = metrics_of([{"itc_r_mean": 50.0, "r_mean": 52.0, text: 1.0}, {"r_mean": 64.5}])
    return Comparison(
        sides=(Side(text, "abc1234", text), Side(text, "", text, 2, 0, (text,))),
        values={text: (text, "")},
        data={text: True, "web": False},
        splits=(Split(text, "test", metrics, (paired,), (text,)),),
        groups=((0,), (1,)),
        seeds=(
            SeedRow(text, text, text, 0, Spread(1, 50.0, None, None)),
            SeedRow(text, text, text, 1, Spread(2, 60.0, 1.0, Interval(51, 69)), 10.0, None),
        ),
        notes=(text,),
    )


def test_it_says_what_differs_and_how_sure_that_is() -> None:
    text = Page(render(full())).text
    for part in (
        "+12.50", "a dog, better", "flips +14 −4, p 0.031", "1 changed file: a dog",
        "14 newly correct, 4 newly wrong; 80 of 100 examples are on both sides",
        "2 of 14, an even sample", "Equal on all sides: a dog. Not equal: web.",
    ):  # fmt: skip
        assert part in text, part


def test_equal_answers_take_a_line_and_no_card() -> None:
    it = full()
    test = it.splits[0].paired[0]
    same = replace(test, difference=0.0, interval=Interval(0, 0), gained=0, lost=0)
    assert (test.verdict, same.verdict) == ("better", "equal")
    assert replace(same, gained=1, lost=1).verdict == "not resolved"
    assert replace(test, p=0.06).verdict == "not resolved"  # after correction for many tests
    html = render(replace(it, splits=(replace(it.splits[0], paired=(same,)),)))
    assert "No answer differs: a dog test." in Page(html).text
    assert 'class="card"' not in html


class Records:
    """Pictures of any key."""

    def thumbnail(self, key: str) -> Thumbnail:
        return Thumbnail(key, f"data:{key}", (f"says {key}",))


def test_an_answer_that_turned_says_what_both_models_say() -> None:
    for kind, said in (
        ("vqa", ("what?", "cat", "a dog", "Two.")),
        ("entailment", ("s", "y", "x", "x")),
        ("grounding", ("the dog", "", "IoU 0.40", "IoU 0.50")),
    ):
        found = scored(predicted(kind))
        (flip,) = flips(found, found, [(1, 0)], None)
        assert (flip.asked, flip.truth, flip.before, flip.after) == said
    found = scored(predicted("retrieval", PAIRED))
    by_picture, by_text = flips(found, found, [(0, 0), (1, 1)], Records())
    thumbnail = Thumbnail("a", "data:a", ("says a",))
    assert by_picture == ("", thumbnail, "says a", "one", "one")
    assert by_text == ("one", thumbnail, "", *["correct image at rank 2"] * 2)
    # Of a retrieval that re-ranks a few, the others have no place that means anything.
    found = scored(predicted("retrieval", PAIRED | {"rank": [175] * len(PAIRED["rank"])}))
    _, by_text = flips(found, found, [(0, 0), (1, 1)], None)
    assert by_text.before == f"correct image beyond rank {len(PAIRED['top'][1])}"
