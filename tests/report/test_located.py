import io
from base64 import b64decode
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from albef.report import examples, located
from albef.report.content import Report
from albef.report.heatmap import MEANT, WRONG, outline, overlay
from albef.report.page import render
from albef.report.results import Run, SplitResult
from pipelines.results import with_examples


class Records:
    def image(self, key: str) -> Image.Image | None:
        return None if key == "gone" else Image.new("RGB", (48, 24), (240, 240, 240))


def table(ious: list[float]) -> pa.Table:
    heat = bytes([255, 0, 0, 0])
    return pa.table(
        {
            "key": [f"k{i}" for i in range(len(ious))],
            "expression": [f"the <{i}>" for i in range(len(ious))],
            "type": [""] * len(ious),
            "truth": [[2.0, 2.0, 10.0, 10.0]] * len(ious),
            "box": [[30.0, 4.0, 10.0, 10.0] if v < 0.5 else [2.0, 2.0, 10.0, 10.0] for v in ious],
            "iou": ious,
            "map_box": [[0.0, 0.0, 20.0, 20.0]] * len(ious),
            "map_iou": [0.25] * len(ious),
            "share": [0.25] * len(ious),
            "heat": [heat] * len(ious),
        }
    )


def decoded(uri: str) -> "np.ndarray[Any, Any]":
    data = b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def near(pixels: "np.ndarray[Any, Any]", colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - colour).sum(-1) < 60).any())


def test_half_of_the_examples_are_right_as_far_as_there_are() -> None:
    def rights(ious: list[float], count: int) -> list[bool]:
        return [place.right for place in located.places(table(ious), Records(), count)]

    assert rights([1.0] * 6 + [0.0] * 6, 4) == [True, True, False, False]
    assert rights([1.0] * 6 + [0.0], 4) == [True, True, True, False]
    assert rights([1.0] + [0.0] * 6, 4) == [True, False, False, False]
    assert rights([0.5], 4) == [True]


def test_pictures_show_what_is_meant_and_what_was_chosen() -> None:
    right, wrong = located.places(table([1.0, 0.0]), Records(), 2)
    assert wrong.note == "IoU 0.00, of the map's own box 0.25"
    assert near(decoded(right.picture.uri), MEANT)
    assert not near(decoded(right.picture.uri), WRONG)
    pixels = decoded(wrong.picture.uri)
    assert pixels.shape == (120, 240, 3)
    assert near(pixels, MEANT)
    scale = 240 / 48
    edge = pixels[round(9 * scale), round(30 * scale)]
    assert near(edge[None], WRONG)


def test_a_picture_that_is_gone_or_a_box_that_was_not_chosen() -> None:
    rows = table([0.0]).to_pylist()
    rows[0] |= {"key": "gone", "box": None, "map_box": None}
    (place,) = located.places(pa.Table.from_pylist(rows), Records(), 1)
    assert place.picture.uri == ""
    rows[0]["key"] = "here"
    (place,) = located.places(pa.Table.from_pylist(rows), Records(), 1)
    assert not near(decoded(place.picture.uri), WRONG)


def test_it_is_told_apart_and_stands_on_the_page() -> None:
    made = table([1.0, 0.0])
    assert located.is_grounding(made)
    assert not examples.is_ranking(made)
    assert not located.is_grounding(made.drop_columns(["heat"]))
    split = SplitResult(
        "test", 2, {"accuracy": 50.0}, {}, {}, places=located.places(made, Records(), 2)
    )
    page = render(Report(1, (Run("grounding", "grounding", "boxes", "pretrained", (split,)),)))
    assert "Where the model looks" in page
    assert "the &lt;0&gt;" in page
    assert "There are no examples" not in page
    assert page.count("data:image/") == 2


def test_the_stage_takes_them_for_what_they_are() -> None:
    made, empty = table([1.0, 0.0]), SplitResult("test", 2, {}, {}, {})
    result = with_examples(empty, made, Records(), 2)  # type: ignore[arg-type]
    assert len(result.places) == 2
    assert result.examples == result.galleries == ()
    assert with_examples(empty, made, None, 2) == empty


def test_heat_is_shown_where_it_is() -> None:
    plain = Image.new("RGB", (40, 40), (250, 250, 250))
    heat = np.array([[0, 0], [0, 1]], np.float32)
    shown = np.asarray(overlay(plain, heat)).astype(int)
    assert (shown[2, 2] > 240).all()
    assert shown[35, 35, 0] > shown[35, 35, 1] + 80  # red
    assert (np.asarray(overlay(plain, heat, peak=100.0)) > 200).all()
    assert overlay(plain, np.zeros((2, 2), np.float32)).tobytes() == plain.tobytes()


def test_an_outline_stays_in_the_picture() -> None:
    for dashed in (False, True):
        picture = Image.new("RGB", (30, 20), (0, 0, 0))
        outline(picture, (-5, -5, 60, 60), MEANT, width=1, dashed=dashed)
        pixels = np.asarray(picture).astype(int)
        ink = (pixels == MEANT).all(-1)
        assert ink[0, 0]
        assert bool(ink[0].all()) is not dashed
        assert not ink[5:-5, 5:-5].any()
