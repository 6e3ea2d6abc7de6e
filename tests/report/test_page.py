"""The page: safe, whole, and in plain words where something is missing."""

from html.parser import HTMLParser
from typing import Any

from albef.lineage import Step
from albef.report.page import Report, render, used_by
from albef.report.sections.datasets import Dataset, Validation
from albef.report.sections.examples import Answer, Candidate, Group, Located, Query
from albef.report.sections.provenance import Costs, Export, Model
from albef.report.sections.results import Run, SplitResult
from albef.report.sections.search import Search
from albef.report.thumbnails import Thumbnail
from albef.run_record import Git, RunRecord

VOID = {"meta", "img", "br"}
BAD = """<script>alert(1)</script>"' onload=x <img src=http://x.test/a>"""
POINTS = ((9.0, 2.0), (19.0, 1.0))


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

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._text.append(data)


def page_of(**parts: Any) -> Page:
    return Page(render(Report(1, **parts)))


def trial(number: int, value: float | None, *values: float, **more: Any) -> dict[str, Any]:
    state = "complete" if value is not None else "pruned"
    row = {"number": number, "state": state, "params": {"lr": 3e-4}, "values": list(values)}
    return {**row, "value": value, "start": False, "chosen": False, "error": "", **more}


def dataset(text: str, url: str) -> Dataset:
    """A data set with everything, where every text is ``text``."""
    thumbnail = Thumbnail(text, "data:image/png;base64,AAAA", (text,), (text,), (text,))
    check = {
        "what": text,
        "passed": False,
        "failed": 1,
        "counted": 9,
        "bound": text,
        "allowed": 0,
        "threshold": text,
    }
    moved = {"of": text, "part": text, "reference": "evaluation", "name": text,
             "measure": "divergence", "value": 0.1, "level": "stopped"}  # fmt: skip
    result = {"passed": False, "digest": text, "checks": [check], "statistics": {text: 1},
              "moved": [moved]}  # fmt: skip
    return Dataset(
        name=text,
        used_by=(text,),
        note=text,
        digest=text,
        captions=20,
        splits={"train": 7, text: 2},
        samples={"train": [thumbnail], text: [thumbnail]},
        sources=[(text, {text: text})],
        licences=[{"what": text, "licence": text, "attribution": text, "url": url}],
        validation=Validation(result, False),
    )


def split(text: str) -> SplitResult:
    """What was reached on a split, with examples of every sort."""
    thumbnail = Thumbnail(text, "data:image/png;base64,AA==", (text,), (text,))
    found = (Candidate(1, True, False, thumbnail), Candidate(2, False, True, Thumbnail(text)))
    described = (Candidate(5, True, False, text=text),)
    examples: dict[str, Any] = {
        "texts": Query(text, None, 0, 3, found),
        "images": Query("", thumbnail, 4, 3, described),
        "pairs": Query(text, None, 0, 1, found, text),
        "located": Located(True, thumbnail, text, text),
    }
    answers = [Answer(good, (thumbnail,), text, text, text, 0.75) for good in (True, False)]
    return SplitResult(
        name=text,
        metrics={"r_mean": 53.5, "itc_r_mean": 50.0, text: 5000.0},
        chance={"r_mean": 1.07},
        random_weights={"r_mean": 1.5},
        headline="r_mean",
        records=1234,
        examples=[
            *(Group(look, text, text, True, [one]) for look, one in examples.items()),
            *(Group("answers", text, text, one.right, [one] * 5) for one in answers),
        ],
    )


def full(text: str, url: str = "https://a.test") -> Report:
    """A report with everything, where every text is ``text``."""
    git = Git(revision=text, clean=False)
    facts = dict.fromkeys(("stage", "started", "machine", "python", "precision"), text)
    record = RunRecord(seconds=262.0, peak_memory_mib=1900, git=git, versions={text: text}, **facts)
    evidence = {
        "metric": text, "trials": {"complete": 1, "pruned": 1, "fail": 1}, "value": 61.0,
        "chosen": {"trial": 0, "start": True}, "start": 61.0, "gain": 0.0, "best": [61.0],
        "spread": 0.0, "not_repeatable_because": text,
    }  # fmt: skip
    trials = (
        trial(0, 61.0, 60.0, 61.0, start=True, chosen=True),
        trial(1, None, 20.0),
        trial(2, None, state=text, error=text),
    )
    curves = ("train/itc", "train/itm", "train/loss", "lr", "val/r_mean", "val/itc_r_mean")
    scores = {"torch": {text: 61.0}, text: {text: 60.5}}
    origins = (Step("dataset", text, state="missing"), Step("file", text, state="verified"))
    made = {"code": text, "record": record}
    return Report(
        seed=1,
        runs=[Run(text, text, text, text, (split(text),), (text,))],
        trainings={text: dict.fromkeys((*curves, f"val/{text}"), POINTS)},
        datasets=[dataset(text, url)],
        searches=[Search(text, {"lr": 3e-4}, trials, evidence)],
        costs=Costs({text: record}, ["export@x"]),
        models=[Model(text, {text: text}, {text: 1})],
        exports=[Export(text, {text: text}, text, scores, {text: 1.5e6})],
        values={text: text},
        chains=[
            Step(text, text, text, text, "changed", text, {text: text}, origins=origins, **made)
        ],
        cards=[text],
    )


def test_nothing_that_is_shown_becomes_markup() -> None:
    page = Page(render(full(BAD)))
    assert "script" not in page.tags
    assert "onload" not in page.names
    assert page.text.count("<script>alert(1)</script>") > 20
    inside = ("#run-", "cards/", "data/")
    assert not [a for a in page.addresses if "x.test" in a and not a.startswith(inside)]


def test_the_page_fetches_nothing_and_is_the_same_again() -> None:
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
    assert html == render(full("a dog"))


def test_only_web_addresses_are_linked() -> None:
    for url in ("javascript:alert(1)", "data:text/html,x", "//x.test"):
        assert url not in Page(render(full("a dog", url))).addresses


def test_an_empty_report_says_so_in_both_themes_and_on_narrow_screens() -> None:
    html = render(Report(seed=1))
    for part in ("prefers-color-scheme: dark", "max-width: 640px", 'name="viewport"'):
        assert part in html
    text = Page(html).text
    for part in (
        "No run has been evaluated yet",
        "no training has started",
        "There is no run.",
        "There are no run records",
    ):
        assert part in text, part


def test_a_card_tells_what_is_known_of_a_run() -> None:
    for splits, told, untold in (
        ([SplitResult("test", {"accuracy": 60.0}, text_only={"accuracy": 41.5})],
         "text only 41.5 %", "ITC"),
        ([SplitResult("test", {"r_mean": 22.2, "itc_r_mean": 42.8})],
         "ITC alone 42.8 %, re-ranking by ITM −20.60", "text alone"),
        ([SplitResult("test", {"r_mean": 53.5}, chance={"r_mean": 1.07}),
          SplitResult("pairs", {"accuracy": 61.0}, chance={"accuracy": 50.0})],
         "chance 1.07 % pairs: 61.0 %, chance 50.0", "ITC"),
    ):  # fmt: skip
        html = render(Report(1, [Run("a", "b", "c", "d", splits)]))
        assert html.count('class="card"') == 1
        assert 'href="#run-a"' in html
        assert 'id="run-a"' in html
        text = Page(html.replace("</p>", " </p>")).text.partition("no curves yet")[0]
        assert told in text
        assert untold not in text


def test_validation_curves_are_by_epoch_and_once_where_nothing_is_re_ranked() -> None:
    points = ((99.0, 30.0), (199.0, 50.0))
    curves = {"val/r_mean": points, "val/itc_r_mean": points}
    html = render(Report(1, trainings={"a": curves}))
    assert "ITC alone" not in Page(html).text
    assert "r_mean: 50 at 2" in html
    curves["val/itc_r_mean"] = ((99.0, 20.0), (199.0, 40.0))
    assert "ITC alone" in page_of(trainings={"a": curves}).text


def test_curves_that_say_less_are_folded() -> None:
    names = ("train/loss", "lr", "val/accuracy", "val/map_iou")
    html = render(Report(1, trainings={"a": dict.fromkeys(names, POINTS)}))
    assert "<summary>Learning rate, Mean IoU of the box around the hottest region</summary>" in html


def test_sections_of_an_unchecked_file_may_have_any_form() -> None:
    params = {
        "datasets": {"web": {}},
        "curate": 3,
        "tasks": {"odd": None, "mine": {"dataset": "web"}},
    }
    assert used_by(params) == {"web": ["mine"]}
