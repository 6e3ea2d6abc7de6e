"""What pictures look like, in numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.validation.image_stats import STATS, image_stats, read_image_stats
from tests.data import toy
from tests.validation.test_suites import picture
from tests.validation.values import written


def named(picture: Image.Image) -> dict[str, float]:
    return dict(zip(STATS, image_stats(picture), strict=True))


def test_a_plain_image_has_its_colour_and_no_spread() -> None:
    for colour, brightness, saturation in (
        ((255, 255, 255), 255.0, 0.0),
        ((200, 100, 50), 124.2, 0.75),
        ((0, 0, 255), 29.07, 1.0),
    ):
        found = named(Image.new("RGB", (50, 40), colour))
        assert tuple(found[name] for name in ("red", "green", "blue")) == colour
        assert found["brightness"] == pytest.approx(brightness)
        assert found["saturation"] == pytest.approx(saturation)
        assert found["spread"] == pytest.approx(0, abs=1e-3)


def test_the_spread_is_that_of_the_colour_that_varies_most() -> None:
    halves = Image.new("RGB", (20, 20), (100, 50, 0))
    halves.paste((100, 90, 10), (0, 0, 10, 20))
    assert named(halves)["spread"] == pytest.approx(20)


def test_every_image_stands_at_the_place_of_its_record(tmp_path: Path) -> None:
    splits = ("train", "val", "train", "test", "val", "train")
    plain = [toy.picture(20 * i) for i in range(12)]
    images = [picture(i, kind="JPEG") if i % 2 else plain[2 * i] for i in range(6)]
    rows = [
        toy.record(i, image=images[i], more=(plain[2 * i + 1],), split=split)
        for i, split in enumerate(splits)
    ]
    folder = written(tmp_path / "toy", rows)
    found = read_image_stats(folder, threads=1)
    assert found.shape == (2, 6, 6)
    assert found[1, :, 0].tolist() == [i * 40 + 20 for i in range(6)]
    assert found[0, ::2, 0].tolist() == [0, 80, 160]
    assert np.array_equal(found, read_image_stats(folder, threads=3))
