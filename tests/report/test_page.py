"""The page: safe, whole, and in plain words where something is missing."""

import re
from html.parser import HTMLParser
from pathlib import Path

from albef.report import page
from albef.report.page import Report, environment, render
from albef.report.sections.results import Run, SplitResult
from albef.report.wording import web_address

VOID = {"meta", "img", "br"}
POINTS = ((9.0, 2.0), (19.0, 1.0))


class Page(HTMLParser):
    """Tags, addresses and text of a page; an unbalanced tag fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
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
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._text.append(data)


def test_no_text_of_an_artifact_becomes_markup_or_an_address() -> None:
    """Values are escaped, so each stays in its element or in the quotes of its attribute."""
    folder = Path(page.__file__).parent / "templates"
    for path in sorted(folder.glob("*.html.j2")):
        text = path.read_text()
        assert environment().autoescape(path.name)  # type: ignore[operator]
        assert not re.findall(r"\|\s*safe|autoescape|<(?:script|link)|\son\w+=|url\(", text), path
        assert not re.findall(r"=\{[{%]", text), path
        for address in re.findall(r'(?:href|src)="([^"]*\{\{[^"]*)"', text):
            checked = "|address" in address or "|urlencode" in address
            assert checked or address.startswith("#") or address == "{{ thumbnail.uri }}", path
    assert "url(" not in (folder / "style.css").read_text()
    for url in ("javascript:alert(1)", "data:text/html,x", "//x.test"):
        assert web_address(url) == ""
    assert web_address("https://a.test") == "https://a.test"


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


def test_curves_are_by_epoch_without_what_is_not_re_ranked_and_the_minor_ones_are_folded() -> None:
    points = ((99.0, 30.0), (199.0, 50.0))
    curves = {"val/r_mean": points, "val/itc_r_mean": points}
    html = render(Report(1, trainings={"a": curves}))
    assert "ITC alone" not in Page(html).text
    assert "r_mean: 50 at 2" in html
    curves["val/itc_r_mean"] = ((99.0, 20.0), (199.0, 40.0))
    assert "ITC alone" in Page(render(Report(1, trainings={"a": curves}))).text
    names = ("train/loss", "lr", "val/accuracy", "val/map_iou")
    html = render(Report(1, trainings={"a": dict.fromkeys(names, POINTS)}))
    assert "<summary>Learning rate, Mean IoU of the box around the hottest region</summary>" in html
