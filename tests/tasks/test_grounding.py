import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef.data.boxes import GRID, around, hottest, iou
from albef.data.record import Record
from albef.loading.reading import stack_images
from tests.conftest import CAPTIONS, tiny_task
from tests.data import toy

PROPOSALS = [[0, 0, 20, 12], [20, 0, 20, 12], [0, 12, 20, 12], [20, 12, 20, 12], [1, 1, 19, 11]]


def record(number: int, **meta: Any) -> Record:
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((40, 24)).save(buffer, "PNG")
    meta = {"box": [0, 0, 20, 12], "proposals": PROPOSALS} | meta
    captions, image = (CAPTIONS[number % 4],), buffer.getvalue()
    return toy.record(number, key=f"r{number}", image=image, captions=captions, meta=meta)


RECORDS = [record(i, type=("name", "relation")[i % 2]) for i in range(7)]


def test_the_chosen_box_is_the_one_that_the_map_points_at() -> None:
    made = tiny_task("grounding")
    table = made.predict(RECORDS, 3)
    assert {len(column) for column in table.values()} == {7}
    assert table["expression"][1] == CAPTIONS[1]
    assert table["share"] == pytest.approx([2 / 5] * 7)
    for i, own in enumerate(RECORDS):
        ids, mask = made.texts([CAPTIONS[i % 4]])
        heat = made.maps(made.pixels(stack_images([own], made.resize)), ids, mask)
        assert heat.shape == (1, 2, 2)

        def large(height: int, width: int, heat: torch.Tensor = heat) -> Any:
            size = (height, width)
            return torch.nn.functional.interpolate(heat[None], size=size, mode="bicubic")[0, 0]

        best = hottest(large(24, 40).numpy(), PROPOSALS)
        assert best is not None
        assert table["box"][i] == PROPOSALS[best]
        assert table["iou"][i] == pytest.approx(iou(PROPOSALS[best], [0, 0, 20, 12]))
        box = around(large(GRID, GRID).numpy(), 0.5)
        assert box is not None
        scaled = [box[0] * 40 / GRID, box[1] * 24 / GRID, box[2] * 40 / GRID, box[3] * 24 / GRID]
        assert table["map_box"][i] == pytest.approx(scaled)
        assert table["map_iou"][i] == pytest.approx(iou(scaled, [0, 0, 20, 12]))
        kept = np.frombuffer(table["heat"][i], np.uint8).reshape(2, 2)
        np.testing.assert_allclose(kept / 255, heat[0] / heat.max(), atol=1 / 500)
    assert len({tuple(box) for box in table["box"]}) > 1


def test_without_proposals_the_maps_own_box_answers() -> None:
    table = tiny_task("grounding").predict([record(i, proposals=[]) for i in range(3)], 3)
    assert table["box"] == table["map_box"]
    assert table["iou"] == table["map_iou"]
    assert table["share"] == [0.0] * 3


def test_a_map_without_heat_chooses_nothing() -> None:
    made = tiny_task("grounding")
    with torch.no_grad():
        made.itm_head.weight.zero_()  # no logit depends on the picture
    table = made.predict(RECORDS[:2], 2)
    assert table["box"] == table["map_box"] == [None, None]
    assert made.validate(table).metrics["accuracy"] == 0.0
    assert table["heat"] == [bytes(4)] * 2


def test_training_needs_no_boxes() -> None:
    made = tiny_task("grounding").train()
    collate = made.collate(lambda image, rng, key="": made.resize(image, key))
    plain = [replace(record, meta={}) for record in RECORDS[:4]]
    assert made(collate(plain, np.random.default_rng(0)), epoch=0.0)["loss"].isfinite()


def test_records_that_cannot_be_grounded_are_named() -> None:
    task, plain = tiny_task("grounding"), record(1)
    for bad, message in (
        (record(1, box=None), r"record r1: box .* must be \[x, y, width, height\]"),
        (record(1, proposals=[[1, 2, 3]]), "record r1: .*proposals"),
        (record(1, proposals=3), "record r1: .*proposals"),
        (replace(plain, captions=()), "record r1 has no caption"),
    ):
        with pytest.raises(ValueError, match=message):
            task.predict([bad], 1)


def test_a_layer_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer 2 .* has 2 fusion layers"):
        tiny_task("grounding", layer=2)
    with pytest.raises(ValueError, match=r"layer 5 .* has 2 blocks of the image"):
        tiny_task("grounding", gradcam="itc", layer=5)


def test_a_box_that_overlaps_by_just_a_half_is_right() -> None:
    """By an answer and by chance alike; the truth is half of the first proposal."""
    proposals = [[0, 0, 20, 12], [20, 12, 20, 12]]
    made = tiny_task("grounding")
    table = made.predict([record(1, box=[0, 0, 10, 12], proposals=proposals)], 1)
    assert table["share"] == [0.5]
    table["iou"] = [iou(proposals[0], [0, 0, 10, 12])]
    assert made.validate(table).metrics["accuracy"] == 100
