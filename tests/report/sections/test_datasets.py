"""The page of a data set, as ingest leaves it: safe, whole, and plain about what is missing."""

import json
from pathlib import Path

import pytest

from albef.ingest.blocks import EXAMPLES
from albef.report.page import render_dataset
from albef.report.sections.datasets import Dataset, DatasetPage, read, read_page
from albef.validation.result import ValidationFailedError
from pipelines import heldout, ingest, validate
from pipelines.stage import Stage
from tests.data import toy
from tests.ingest.bad_rows import encoded, gradient
from tests.pipelines.test_ingest import PHOTOS, pictures
from tests.pipelines.test_ingest import here as here
from tests.pipelines.test_ingest import toy_params as toy_params
from tests.report.test_page import Page

ROWS = {
    **PHOTOS,
    "html.jpg": (b"<html>", "five"),
    **{f"{i:02d}.png": (toy.picture(i, (200, 150)), "...") for i in range(20)},
    "tags.png": (encoded(gradient(90, 60, 77), "PNG"), "<b>a dog</b>"),
}


def test_nothing_is_known_yet() -> None:
    text = Page(render_dataset(DatasetPage(Dataset("web", note="not made")))).text
    for part in (
        "not made", "There are no records yet", "quarantine is missing",
        "sources name no licence", "not been validated yet",
    ):  # fmt: skip
        assert part in text
    clean = DatasetPage(Dataset("web"), intakes={"a": {"rows": 3, "kept": 3}})
    assert "No row was rejected" in Page(render_dataset(clean)).text


def made(**values: object) -> Stage:
    toy_params(Path.cwd(), ROWS, near_distance=4, **values)
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    return stage


def page_of(stage: Stage, count: int = 4) -> DatasetPage:
    return read_page(stage.layout, read(stage.layout, "toy", ("pretrain",), count), count)


def test_what_was_rejected_and_what_is_repeated(here: Path) -> None:
    page = page_of(stage := made(duplicates="drop_near"))
    [(source, intake)] = page.intakes.items()
    assert (source, intake["rows"], intake["kept"]) == ("own", 26, 3)
    assert [(own.reason, own.count) for own in page.rejected] == [
        ("no_caption", 20), ("duplicate", 1), ("near_duplicate", 1), ("no_image", 1)
    ]  # fmt: skip
    assert len(page.rejected[0].rows) == 4 < EXAMPLES
    assert all(thumbnail and thumbnail.uri for _, thumbnail in page.rejected[0].rows)
    assert page.rejected[-1].rows[0][1] is None
    near, equal = page.pairs
    assert page.repeated == (1, 1)
    assert (near.exact, near.dropped, near.thumbnail.captions) == (False, True, ("four",))
    assert (equal.exact, equal.distance, equal.of.captions) == (True, 0, ("one",))
    assert near.of.uri
    assert near.thumbnail.uri
    assert ("<b>a dog</b>",) in [it.originals for it in page.data.samples["train"]]
    text = Page(render_dataset(page)).text
    for part in (
        "rows read26", "rejected23", "before cleaning: <b>a dog</b>", "of 64 bits differ",
        "same file as an earlier one: 1. Near-duplicates of an earlier one: 1", "20 rows of own",
    ):  # fmt: skip
        assert part in text, part
    assert render_dataset(page) == render_dataset(page_of(stage))


def test_what_is_kept_although_it_is_repeated(here: Path) -> None:
    page = page_of(made(duplicates="keep"))
    assert [(pair.exact, pair.dropped) for pair in page.pairs] == [(False, False), (True, False)]
    assert all(pair.thumbnail.uri and pair.of.uri for pair in page.pairs)


def test_what_is_evaluated_on(here: Path) -> None:
    toy_params(here, PHOTOS, near_distance=4, screened=True)
    values = json.loads((here / "params.yaml").read_text())
    tests = pictures(here / "held", {"a.jpg": PHOTOS["first.jpg"]}, "test")
    own = values["datasets"]["toy"]
    own["sources"]["tested"] = tests
    values["datasets"]["coco"] = {**own, "sources": {"e": tests}, "screened": False}
    values["ingest"]["heldout"] = ["coco"]
    (here / "params.yaml").write_text(json.dumps(values))
    heldout.run(Stage("heldout", "coco"))
    ingest.run(Stage("ingest", "coco"))
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    page = page_of(stage)
    shown = [row["key"] for own in page.rejected for row, _ in own.rows]
    assert shown == ["first.jpg", "equal.jpg", "smaller.png"]
    assert {pair.dataset for pair in page.contaminated} <= {"", "coco"}
    assert all(pair.of.uri and pair.thumbnail.uri for pair in page.contaminated)
    assert "looks like evaluation image" in Page(render_dataset(page)).text


def test_the_profile_of_a_validation_is_drawn_also_after_json_has_sorted_it(here: Path) -> None:
    stage = made()
    assert "This dataset has not been validated yet" in Page(render_dataset(page_of(stage))).text
    with pytest.raises(ValidationFailedError):  # of toys, whose profile is written all the same
        validate.run(Stage("validate", "toy"))
    page = page_of(stage)
    words = page.histograms[0]
    assert words.title == "Words of a caption"
    assert "Mean red" in [chart.title for chart in page.histograms]
    assert words.histogram is not None
    assert list(words.histogram.shares) == ["train"]
    assert sum(words.histogram.shares["train"]) == pytest.approx(1)
    (said,) = page.tallies
    assert said.title == "Vocabulary"
    assert sum(share["train"] for share in said.rows.values()) <= 1
    assert "Words of a caption" in Page(render_dataset(page)).text
