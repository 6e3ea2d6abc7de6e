"""The page: safe, whole, and in plain words where something is missing."""

import re
from html.parser import HTMLParser

import pytest

from albef.lineage import Step
from albef.report.content import Report, Search, Training, Trial
from albef.report.figures import Dot, scatter
from albef.report.origins import Cost, Dataset, Export, Licence, Model, Samples, Validation
from albef.report.page import render
from albef.report.results import (
    Answer,
    Answered,
    Answers,
    Example,
    Gallery,
    Outcome,
    Picture,
    Place,
    Query,
    Run,
    SplitResult,
)
from albef.run_record import RunRecord
from albef.validation.content import Drifted

VOID = {"meta", "img", "br"}
BAD = """<script>alert(1)</script>"' onload=x <img src=http://x.test/a>"""


class Page(HTMLParser):
    """Tags, addresses and text of a page; an unbalanced tag fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.names: set[str] = set()
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.names.add(name)
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._text.append(data)


def full(text: str, url: str = "https://a.test") -> Report:
    """A report with everything, where every text is ``text``."""
    picture = Picture(text, "data:image/png;base64,AA==", (text,), (text,))
    answers = (
        Answer(1, True, picture),
        Answer(2, False, Picture(text, "")),
    )
    texts = Gallery(text, text, True, False, (Query(text, None, 0, 3, answers),))
    images = Gallery(
        text, text, False, False, (Query("", picture, 4, 3, (Answer(5, True, text=text),)),)
    )
    pairs = Gallery(text, text, True, True, (Query(text, None, 0, 1, answers, text),))
    split = SplitResult(
        text,
        1234,
        {"r_mean": 53.5, "itc_r_mean": 50.0, text: 5000.0},
        {"r_mean": 1.07},
        {"r_mean": 1.5},
        (Outcome(text, 5, 3, 1, 1),),
        (texts, images, pairs),
        answers=tuple(
            Answers(good, text, (Answered((picture,), text, text, text, 0.75),) * 5)
            for good in (True, False)
        ),
        examples=(Example(picture, ((text, text),)),),
        places=(Place(picture, text, True, text),),
    )
    points = ((9.0, 2.0), (19.0, 1.0))
    return Report(
        seed=1,
        runs=(Run(text, text, text, text, (split,), (text,)),),
        trainings=(
            Training(
                text,
                {
                    "train/itc": points,
                    "train/itm": points,
                    "train/loss": points,
                    "lr": points,
                    "val/r_mean": points,
                    "val/itc_r_mean": points,
                    f"val/{text}": points,
                },
            ),
        ),
        datasets=(
            Dataset(
                text,
                text,
                {text: 10},
                20,
                ((text, {text: text}),),
                (Licence(text, text, text, url),),
                (Samples(text, (picture,)), Samples(text, (picture,))),
                (text,),
                Validation(
                    False,
                    False,
                    ((text, text, False),),
                    ((text, text),),
                    text,
                    (Drifted(text, text, "evaluation", text, text, text, "stopped"),),
                ),
                (text,),
            ),
        ),
        searches=(
            Search(
                text,
                {"lr": True},
                {"lr": 3e-4},
                (
                    Trial(0, "complete", {"lr": 3e-4}, (60.0, 61.0), 61.0, True, True),
                    Trial(1, "pruned", {"lr": 3e-5}, (20.0,), None, False, False),
                    Trial(2, text, {"lr": 3e-5}, (), None, False, False, text),
                ),
                evidence={
                    "metric": text,
                    "trials": {"complete": 1, "pruned": 1, "fail": 1},
                    "chosen": {"trial": 0, "start": True},
                    "value": 61.0,
                    "start": 61.0,
                    "gain": 0.0,
                    "best": [61.0],
                    "spread": 0.0,
                    "not_repeatable_because": text,
                },
            ),
        ),
        costs=(
            Cost(
                text,
                {
                    "seconds": 262.0,
                    "peak_memory_mib": 1900,
                    "machine": text,
                    "python": text,
                    "git": {"revision": text, "clean": False},
                    "versions": {text: text},
                    "precision": text,
                },
            ),
            Cost("export@x", None),
        ),
        models=(Model(text, text, {text: text}, {text: 1}),),
        exports=(
            Export(
                text,
                {text: text},
                text,
                {"torch": {text: 61.0}, text: {text: 60.5}},
                {text: 1.5e6},
            ),
        ),
        values={text: text},
        chains=(
            Step(
                text,
                text,
                text,
                text,
                "changed",
                text,
                {text: text},
                (text, "changed"),
                RunRecord(stage=text, started=text, machine=text, seconds=3.0),
                "verified",
                (Step("data set", text, state="missing"), Step("file", text, state="verified")),
            ),
        ),
        cards=(text,),
    )


def test_nothing_that_is_shown_becomes_markup() -> None:
    page = Page(render(full(BAD)))
    assert "script" not in page.tags
    assert "onload" not in page.names
    assert page.text.count("<script>alert(1)</script>") > 20
    inside = ("#run-", "cards/", "data/")
    assert not [a for a in page.addresses if "x.test" in a and not a.startswith(inside)]


def test_the_page_fetches_nothing() -> None:
    html = render(full("a dog"))
    page = Page(html)
    assert "link" not in page.tags
    assert "url(" not in html
    assert "@import" not in html
    outside = [a for a in page.addresses if not a.startswith(("#", "data:image/"))]
    assert outside == ["cards/a%20dog.md", "data/a%20dog.html", "https://a.test"], (
        "links, followed by a click"
    )
    assert "default-src 'none'" in html


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//x.test", ""])
def test_only_web_addresses_are_linked(url: str) -> None:
    assert url not in [a for a in Page(render(full("a dog", url))).addresses if a]


def test_equal_contents_give_equal_bytes() -> None:
    assert render(full("a dog")) == render(full("a dog"))


def test_it_says_what_there_is() -> None:
    text = Page(render(full("a dog"))).text
    for part in (
        "53.5 %",
        "50 times chance (1.07 %)",
        "ITC alone 50.0 %, re-ranked by ITM +3.5",
        "number 4; matching (ITM) puts it first",
        "1,234 pictures",
        "0 of 1 expectations met",
        "its digest is another one now",
        "stopped early",
        "chosen",
        "start",
        "4.4 min",
        "1.86 GiB",
        "No run record of export@x: it either did not run yet",
        "with uncommitted changes",
        "A dog: a dog, a dog.",
        "another one than the one at hand",
        "75 % sure",
        "right: a dog",
        "1 more",
    ):
        assert part in text, part


def test_both_themes_and_narrow_screens_are_styled() -> None:
    html = render(Report(seed=1))
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 640px" in html
    assert 'name="viewport"' in html


def test_an_empty_report_says_so_in_plain_words() -> None:
    text = Page(render(Report(seed=1))).text
    for part in (
        "No run has been evaluated yet",
        "nothing has been trained",
        "There is no run to search for",
        "There are no run records",
    ):
        assert part in text, part


def test_gaps_within_a_report_are_told() -> None:
    report = Report(
        seed=1,
        runs=(Run("vqa", "vqa", "scenes", "pretrained", notes=("not evaluated yet",)),),
        trainings=(Training("zero_shot", {}),),
        datasets=(Dataset("web", notes=("not made yet",)), Dataset("coco", "d" * 64, {"a": 1}, 1)),
        searches=(Search("vqa", note="nothing to search"),),
        costs=(Cost("pretrain", {"seconds": 3.0}), Cost("a", None), Cost("b", None)),
        models=(Model("vqa", note="no checkpoint yet"),),
    )
    text = Page(render(report)).text
    for part in (
        "not evaluated yet",
        "Nothing was trained here",
        "not made yet",
        "has not been validated yet",
        "nothing to search",
        "No run record of a, b: they either did not run yet",
        "no checkpoint yet",
        "unknown machine",
        "Outside git",
    ):
        assert part in text, part


def test_metrics_of_a_kind_to_come_need_no_new_code() -> None:
    split = SplitResult("test", 9, {"bleu": 12.0, "perplexity": 345.0}, {"bleu": 3.0}, {})
    report = Report(seed=1, runs=(Run("story", "story", "scenes", "pretrained", (split,)),))
    text = Page(render(report)).text
    assert "bleu" in text
    assert "345.0" in text
    assert "ITC" not in text.partition("Results")[2].partition("Curves")[0]


def test_what_the_text_alone_gives_away_is_told_where_it_is_known() -> None:
    split = SplitResult("test", 4, {"accuracy": 60.0}, {}, {}, text_only={"accuracy": 41.5})
    told = Page(render(Report(1, runs=(Run("a", "vqa", "x", "y", splits=(split,)),)))).text
    assert "from the text alone 41.5 %" in told
    assert "text alone" in told
    plain = SplitResult("test", 4, {"accuracy": 60.0}, {}, {})
    told = Page(render(Report(1, runs=(Run("a", "vqa", "x", "y", splits=(plain,)),)))).text
    assert "text alone" not in told


def test_re_ranking_that_loses_is_not_hidden() -> None:
    split = SplitResult("test", 9, {"r_mean": 22.2, "itc_r_mean": 42.8}, {"r_mean": 1.07}, {})
    text = Page(render(Report(seed=1, runs=(Run("a", "a", "a", "a", (split,)),)))).text
    assert "ITC alone 42.8 %, re-ranked by ITM −20.6" in text


def test_validation_curves_are_by_epoch_and_once_where_nothing_is_re_ranked() -> None:
    points = ((99.0, 30.0), (199.0, 50.0))
    curves = {"val/r_mean": points, "val/itc_r_mean": points}
    same = render(Report(seed=1, trainings=(Training("a", curves),)))
    assert "ITC alone" not in Page(same).text
    assert "r_mean: 50 at 2" in same
    curves["val/itc_r_mean"] = ((99.0, 20.0), (199.0, 40.0))
    assert "ITC alone" in Page(render(Report(seed=1, trainings=(Training("a", curves),)))).text


def test_the_top_has_one_card_for_each_run_and_names_its_other_splits() -> None:
    test = SplitResult("test", 9, {"r_mean": 53.5}, {"r_mean": 1.07}, {})
    pairs = SplitResult("pairs", 9, {"accuracy": 61.0}, {"accuracy": 50.0}, {})
    cost = Cost("pretrain", {"seconds": 90.0, "core_hours": 0.05, "gpu_hours": 0.02})
    report = Report(seed=7, runs=(Run("a", "b", "c", "d", (test, pairs)),), costs=(cost,))
    html = render(report)
    assert html.count('class="card"') == 1
    assert 'href="#run-a"' in html
    assert 'id="run-a"' in html
    top = Page(html).text.partition("Results")[0]
    for part in ("53.5 %", "50 times chance", "pairs: 61.0 %, chance 50.0", "seed 7", "90 s",
                 "core hours 0.05", "GPU hours 0.02"):  # fmt: skip
        assert part.replace(" ", "") in top.replace(" ", ""), part


def test_curves_that_say_less_are_folded() -> None:
    points = ((9.0, 2.0), (19.0, 1.0))
    curves = {"train/loss": points, "lr": points, "val/accuracy": points, "val/map_iou": points}
    html = render(Report(seed=1, trainings=(Training("a", curves),)))
    assert "<summary>Learning rate, Mean overlap of the map&#39;s own box</summary>" in html


def test_values_that_are_equal_but_for_rounding_are_drawn_in_the_middle() -> None:
    dots = [Dot(1.0, 84.33333333333333, "a", ""), Dot(2.0, 84.33333333333334, "b", "")]
    svg = str(scatter(dots, log_x=False, x_label="lr", name="n"))
    places = [float(y) for y in re.findall(r' y="([-\d.]+)"', svg)]
    assert max(places) <= 180, "a tick far off would stand somewhere else on the page"
