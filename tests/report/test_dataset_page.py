"""The page of a data set: safe, whole, and in plain words where something is missing."""

import re

from albef.data.refusal import Reason
from albef.report import figures
from albef.report.dataset import Aside, DatasetPage, Intake, Pair, Row, Tally
from albef.report.dataset_page import WORDS, render
from albef.report.figures import Chart
from albef.report.origins import Dataset, Licence, Samples, Validation
from albef.report.results import Picture
from tests.report.test_page import BAD, Page

DOT = "data:image/png;base64,AAAA"


def full(text: str) -> DatasetPage:
    """A page of everything, with a text wherever a data set may say something."""
    picture = Picture(text, DOT, (text,), (text,), (text,))
    svg = figures.histogram([0, 1, 2], [3, 4], x_label=text, name=text)
    data = Dataset(
        name="web",
        digest="ab" * 32,
        splits={"train": 7, text: 2},
        captions=9,
        sources=((text, {text: text}),),
        licences=(Licence(text, text, text, text), Licence("b", "CC BY 4.0", "", "https://a.test")),
        samples=(Samples("train", (picture,)),),
        used_by=(text,),
        validation=Validation(False, False, ((text, text, False),), ((text, text),), text),
        notes=(text,),
    )
    pair = Pair(picture, picture, text, exact=False, distance=3, dropped=True)
    return DatasetPage(
        data=data,
        intakes=(Intake(text, 9, 7),),
        repeated=(1, 2),
        pairs=(pair, Pair(picture, Picture("gone", ""), "", True, 0, dropped=False)),
        contaminated=(pair,),
        contamination=((text, text),),
        asides=(
            Aside("no_image", ((text, 2), ("b", 1)), (Row(text, 3, text, text, None),)),
            Aside(text, (("b", 1),), (Row(text, 3, text, text, picture),)),
        ),
        histograms=(Chart(text, text, (), svg),),
        tallies=(Tally(text, text, ((text, 4), ("b", 1))),),
        counted=7,
    )


def test_what_a_data_set_says_is_text_and_nothing_else() -> None:
    page = Page(render(full(BAD)))
    assert "script" not in page.tags
    assert not [name for name in page.names if name.startswith("on")]
    assert page.tags.count("img") == Page(render(full("fine"))).tags.count("img")
    assert BAD in page.text
    for address in page.addresses:
        assert address == DOT or address.startswith(("#", "../index.html", "https://a.test"))


def test_everything_is_said() -> None:
    text = Page(render(full("fine"))).text
    for said in (
        "train7", "rows read9", "set aside4", "refused", "as it came: fine",
        "1 training pictures have the file of an earlier one, 2 look like one",
        "3 bits apart", "equal files", "dropped", "kept", "no picture of a known format",
        "3 rows: 2 of fine, 1 of b", "77.8 %", "Of 7 of its records, at even steps",
        "validated before it changed",
    ):  # fmt: skip
        assert said in text, said


def test_nothing_is_known_yet() -> None:
    text = Page(render(DatasetPage(Dataset("web", notes=("not made",))))).text
    for said in (
        "not made", "There are no records yet", "its quarantine is missing",
        "sources name no licence", "not been validated yet",
    ):  # fmt: skip
        assert said in text
    clean = DatasetPage(Dataset("web"), intakes=(Intake("a", 3, 3),))
    assert "Every row of its sources is in a shard" in Page(render(clean)).text


def test_every_reason_has_words() -> None:
    assert set(WORDS) == {str(reason) for reason in Reason}


def test_a_histogram_has_a_bar_for_each_bin() -> None:
    svg = figures.histogram([0, 1, 2, 3], [3, 0, 6], x_label="words", name="Words")
    heights = [float(h) for h in re.findall(r'class="bin" .*?height="([\d.]+)"', svg)]
    assert len(heights) == 3
    assert heights[1] == 0
    assert heights[2] == 2 * heights[0]
    assert "6 from 2 to 3" in svg
