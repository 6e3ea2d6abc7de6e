"""What pictures look like, in numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from albef.validation.image_stats import STATS, image_stats, read_image_stats
from tests.data import toy
from tests.ingest.bad_rows import encoded
from tests.validation.test_suites import picture
from tests.validation.values import failed_suites, keys, written


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
    rows = [
        toy.record(
            i,
            image=picture(i, kind="JPEG") if i % 2 else toy.picture(i * 40),
            more=(toy.picture(i * 40 + 20),),
            split=split,
        )
        for i, split in enumerate(splits)
    ]
    folder = written(tmp_path / "toy", rows)
    found = read_image_stats(folder, threads=1)
    assert found.shape == (2, 6, 10)
    assert found[1, :, 0].tolist() == [i * 40 + 20 for i in range(6)]
    assert found[0, ::2, 0].tolist() == [0, 80, 160]
    assert np.array_equal(found, read_image_stats(folder, threads=3))


def test_a_share_of_dark_light_blurred_and_bare_images_is_held(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    sharp = Image.fromarray(noise.repeat(4, 0).repeat(4, 1))
    altered = {
        "max_blurred_images": sharp.resize((4, 4)).resize((64, 64), Image.Resampling.BICUBIC),
        "max_dark_images": sharp.point(lambda value: value // 4),
        "max_light_images": sharp.point(lambda value: 243 + value // 20),
        "max_bare_images": ImageOps.expand(sharp.crop((0, 0, 8, 8)), 28),
    }
    images = [sharp, *altered.values()]
    rows = [toy.record(i, image=encoded(image, "PNG")) for i, image in enumerate(images)]
    folder = written(tmp_path / "toy", rows)
    assert failed_suites(folder) == []
    found = failed_suites(folder, **dict.fromkeys(altered, 0.0))
    first = {check.threshold: keys(check)[0] for check in found}
    assert first == {name: rows[1 + i].key for i, name in enumerate(altered)}
