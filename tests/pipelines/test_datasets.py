"""The page of a data set from what ingest left, read as the report does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from albef.ingest.blocks import EXAMPLES
from albef.report.dataset_page import render
from pipelines import datasets, ingest
from pipelines.datasets import read_page
from pipelines.origins import read_dataset
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


def made(**values: object) -> Stage:
    toy_params(Path.cwd(), ROWS, near_distance=4, **values)
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    return stage


def test_what_was_set_aside_and_what_is_repeated(here: Path) -> None:
    stage = made(duplicates="drop_near")
    data = read_dataset(stage.layout, "toy", ("pretrain",), 4)
    page = read_page(stage.layout, data, 4)
    [intake] = page.intakes
    assert (intake.source, intake.rows, intake.kept) == ("own", 26, 3)
    assert [(aside.reason, aside.count) for aside in page.asides] == [
        ("no_caption", 20), ("duplicate", 1), ("near_duplicate", 1), ("no_image", 1)
    ]  # fmt: skip
    wordless = page.asides[0]
    assert len(wordless.rows) == 4 < EXAMPLES
    assert all(row.picture and row.picture.uri for row in wordless.rows)
    assert page.asides[-1].rows[0].picture is None
    near, equal = page.pairs
    assert page.repeated == (1, 1)
    assert (near.exact, near.dropped, near.picture.captions) == (False, True, ("four",))
    assert (equal.exact, equal.distance, equal.of.captions) == (True, 0, ("one",))
    assert near.of.uri
    assert near.picture.uri
    samples = data.samples[0].pictures
    assert ("<b>a dog</b>",) in [picture.originals for picture in samples]
    text = Page(render(page)).text
    assert "as it came: <b>a dog</b>" in text
    assert render(page) == render(read_page(stage.layout, data, 4))


def test_what_is_kept_although_it_is_repeated(here: Path) -> None:
    stage = made(duplicates="keep")
    page = read_page(stage.layout, read_dataset(stage.layout, "toy", (), 4), 4)
    assert [(pair.exact, pair.dropped) for pair in page.pairs] == [(False, False), (True, False)]
    assert all(pair.picture.uri and pair.of.uri for pair in page.pairs)


def test_what_is_evaluated_on(here: Path) -> None:
    toy_params(here, PHOTOS, near_distance=4, screened=True)
    values = json.loads((here / "params.yaml").read_text())
    tests = pictures(here / "held", {"a.jpg": PHOTOS["first.jpg"]}, "test")
    own = values["datasets"]["toy"]
    own["sources"]["tested"] = tests
    values["datasets"]["coco"] = {**own, "sources": {"e": tests}, "screened": False}
    values["ingest"]["heldout"] = ["coco"]
    (here / "params.yaml").write_text(json.dumps(values))
    from pipelines import heldout

    heldout.run(Stage("heldout", "coco"))
    ingest.run(Stage("ingest", "coco"))
    stage = Stage("ingest", "toy")
    ingest.run(stage)
    page = read_page(stage.layout, read_dataset(stage.layout, "toy", (), 4), 4)
    assert [name for name, _ in page.contamination] == ["first.jpg", "equal.jpg", "smaller.png"]
    assert {pair.dataset for pair in page.contaminated} <= {"", "coco"}
    assert all(pair.of.uri and pair.picture.uri for pair in page.contaminated)
    assert "which is evaluated on" in Page(render(page)).text


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_large_index_is_counted_at_even_steps(
    here: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    stage = made(duplicates="keep", max_caption_chars=1000)
    monkeypatch.setattr(datasets, "_COUNTED", most)
    data = read_dataset(stage.layout, "toy", (), 2)
    page = read_page(stage.layout, data, 2)
    rows = sum(data.splits.values())
    assert page.counted == min(rows, -(-rows // -(-rows // most)))


def test_before_anything_was_made(here: Path) -> None:
    stage = Stage("ingest", "toy")
    data = read_dataset(stage.layout, "toy", (), 4)
    page = read_page(stage.layout, data, 4)
    assert page.counted == 0
    assert "There are no records yet" in Page(render(page)).text
    ingest.run(stage)
    made_now = read_dataset(stage.layout, "toy", (), 4)
    bare = read_page(stage.layout, replace(made_now), 4)
    assert bare.counted == 24
    assert bare.repeated == (0, 0)
