import tracemalloc

import numpy as np
import pytest
import torch

from albef.data.boxes import around, enlarged, hottest, iou, recall, regions

ORIGINAL = [  # of the original code
    ([0, 0, 10, 10], [5, 5, 10, 10], 0.14285714285714285),
    ([0, 0, 10, 10], [9, 9, 5, 5], 0.0),
    ([0, 0, 10, 10], [20, 20, 5, 5], 0.0),
    ([1.5, 2.5, 30, 40], [3, 4, 25, 38], 0.7916666666666666),
    ([0, 0, 4, 4], [0, 0, 4, 4], 1.0),
]
BY_HAND = [([0, 0, 4, 2], [2, 0, 4, 2], 4 / 12), ([0, 0, 10, 10], [2, 2, 5, 5], 25 / 100)]


def test_iou_by_the_original_and_by_hand() -> None:
    for a, b, expected in ORIGINAL + BY_HAND:
        assert iou(a, b) == pytest.approx(expected, abs=1e-12)
        assert iou(b, a) == iou(a, b)


def test_recall_counts_from_one_half_on() -> None:
    assert recall([0.5, 0.49, 1.0, 0.0]) == 50.0
    assert recall([]) == 0.0


def test_hottest_weighs_heat_by_the_root_of_the_area() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 4
    heat[1, 1] = 2
    boxes = [[0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 1, 1]]
    assert hottest(heat, boxes) == 2  # 6 / 4, 6 / 2, 4 / 1
    heat[1, 1] = 5
    assert hottest(heat, boxes) == 1  # 9 / 4, 9 / 2, 4 / 1


def test_no_heat_chooses_no_box() -> None:
    heat = np.zeros((4, 4), np.float32)
    assert hottest(heat, [[0, 0, 2, 2]]) is None
    assert hottest(heat + 1, []) is None
    assert hottest(heat - 1, [[0, 0, 2, 2]]) is None
    assert hottest(heat + 1, [[0, 0, 0, 2]]) is None
    assert around(heat, 0.5) is None


def test_hottest_takes_no_memory_for_the_pixels_of_the_image() -> None:
    rng = np.random.default_rng(0)
    heat = rng.random((8, 8), dtype=np.float32)
    boxes = [[*rng.uniform(-9, 60, 2), *rng.uniform(0, 80, 2)] for _ in range(40)]
    for size in ((37, 91), (64, 64), (3, 5)):
        for i in range(0, 40, 4):
            expected = hottest(enlarged(heat, *size), boxes[i : i + 4])
            assert hottest(heat, boxes[i : i + 4], size) == expected
    tracemalloc.start()
    assert hottest(heat, [[0, 0, 20_000, 20_000]] * 100, (20_000, 20_000)) == 0
    assert tracemalloc.get_traced_memory()[1] < 20_000_000, "a map of that size has 1.6 GB"
    tracemalloc.stop()
    assert hottest(heat, [[0, 0, 4, 4], [1e308, 1e308, 1e308, 1e308]], (9, 9)) == 0


def test_around_takes_the_region_with_the_most_heat() -> None:
    rows = [9, 0, 0, 0, 0], [0, 0, 6, 6, 0], [0, 0, 6, 4, 0], [0, 5, 0, 0, 0]
    heat = np.array(rows, np.float32)
    assert around(heat, 0.5) == (2, 1, 2, 2)  # 18 against 9; 4 is too little, 5 only at a corner
    assert around(heat, 0.4) == (2, 1, 2, 2)
    assert around(heat, 0.9) == (0, 0, 1, 1)


def test_regions_say_where_a_box_stands_and_how_large_it_is() -> None:
    boxes = [[0, 0, 8, 8], [100, 0, 8, 4], [45, 50, 2, 2], [0, 100, 4, 4]]
    assert regions(boxes) == ("0 0 0", "2 0 1", "1 1 3", "0 2 2")
    assert regions([[5, 5, 0, 0]]) == ("0 0 0",)
    assert regions([]) == ()


def test_a_map_is_enlarged_as_torch_does() -> None:
    heat = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    given = torch.from_numpy(heat)[None, None]
    for size in ((64, 64), (37, 91), (8, 8), (3, 5)):
        expected = torch.nn.functional.interpolate(given, size=size, mode="bicubic")[0, 0]
        np.testing.assert_allclose(enlarged(heat, *size), expected.numpy(), atol=1e-5)
