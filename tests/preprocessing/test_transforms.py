"""Decoding, augmentation and normalisation."""

from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from albef.config import ParamsError, validate
from albef.data.image_decoding import ImageError, decode
from albef.loading.reading import to_device
from albef.preprocessing import transforms
from albef.preprocessing.transforms import AugmentConfig, Evaluate, Transform
from tests.data import toy
from tests.ingest.bad_rows import encoded, gradient, png_header

SIDE = 32


def augment(**changed: object) -> AugmentConfig:
    values = {"flip": False, "crop": [1.0, 1.0], "randaugment": 0, **changed}
    return validate(AugmentConfig, values, where="test")


def test_values_are_normalised_as_clip_does() -> None:
    picture = Image.new("RGB", (SIDE, SIDE), (255, 0, 128))
    values = Evaluate(SIDE)(encoded(picture, "PNG"))
    assert values.shape == (3, SIDE, SIDE)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    expected = [
        (1 - 0.48145466) / 0.26862954,
        -0.4578275 / 0.26130258,
        (128 / 255 - 0.40821073) / 0.27577711,
    ]
    for channel, value in zip(values, expected, strict=True):
        np.testing.assert_allclose(channel, value, rtol=1e-5)


def test_evaluation_is_a_plain_bicubic_resize() -> None:
    picture = gradient(48, 40)
    expected = transforms.normalised(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Evaluate(SIDE)(encoded(picture, "PNG")), expected)


def trained(transform: Transform, image: bytes, seed: int = 0) -> np.ndarray:
    """What a model sees of a picture in training."""
    pixels = transform(image, np.random.default_rng(seed))
    assert pixels.dtype == np.uint8
    batch = to_device({"image": torch.from_numpy(pixels.copy())}, torch.device("cpu"))
    return batch["image"].numpy()


def test_without_augmentation_training_is_evaluation() -> None:
    image = encoded(gradient(48, 40), "PNG")
    rng = np.random.default_rng(0)
    Transform(augment(), SIDE)(image, rng)
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn
    for side in (SIDE, 40, 44):
        found, exact = trained(Transform(augment(), side), image), Evaluate(side)(image)
        if side == SIDE:  # another kernel makes it smaller: at most two levels of 255
            assert np.abs(found - exact).max() < 2.5 / 255 / min(transforms.STD)
        else:
            np.testing.assert_array_equal(found, exact)


def photo(width: int, height: int) -> bytes:
    """A JPEG with large and small structures."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return encoded(coarse.resize((width, height), Image.Resampling.BICUBIC), "JPEG")


def test_training_unpacks_a_jpeg_no_larger_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never smaller than the crop needs; what it shows stays within what nobody sees."""
    unpacked: list[tuple[int, ...]] = []
    decode = simplejpeg.decode_jpeg

    def seen(*args: Any, **options: Any) -> Any:
        unpacked.append(decode(*args, **options).shape[:2])
        return decode(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", seen)
    image = photo(640, 480)
    for side, eighths in ((512, None), (479, 8), (241, 8), (240, 4), (181, 4), (180, 3), (61, 2)):
        unpacked.clear()
        exact = Evaluate(side)(image)
        assert not unpacked
        found = trained(Transform(augment(), side), image)
        expected = [] if eighths is None else [(60 * eighths, 80 * eighths)]
        assert unpacked == expected
        assert np.abs(found - exact).mean() < 0.05  # deviations of a channel
    unpacked.clear()
    Transform(augment(crop=[0.3, 0.3]), 200)(image, np.random.default_rng(0))
    assert unpacked == [(480, 640)]  # of a small box all pixels are needed


@settings(max_examples=30)
@given(st.integers(40, 200), st.integers(40, 200), st.integers(8, 60), st.integers(0, 2**32))
def test_a_crop_of_a_smaller_jpeg_shows_the_same_part(
    width: int, height: int, side: int, seed: int
) -> None:
    """To half a pixel of the result: brightness tells the place."""
    transform = Transform(augment(crop=[0.3, 1.0]), side)
    for across in (True, False):
        slope = np.linspace(0, 255, width if across else height)
        levels = np.broadcast_to(slope if across else slope[:, None], (height, width))
        picture = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
        jpeg, png = (
            transform(encoded(picture, kind), np.random.default_rng(seed)).astype(int)
            for kind in ("JPEG", "PNG")
        )
        assert np.abs(jpeg - png).mean() < 0.5 * 255 / side + 3


def test_a_jpeg_with_trifling_damage_is_left_to_pillow() -> None:
    whole = photo(64, 48)
    place = whole.index(b"\xff\xda")
    damaged = whole[:place] + b"\x00\x00" + whole[place:]  # bytes between two segments
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(damaged)
    transform = Transform(augment(), SIDE)
    found, exact = (trained(transform, image) for image in (damaged, whole))
    np.testing.assert_array_equal(found, exact)
    with pytest.raises(ImageError, match="row-7"):
        transform(whole[: len(whole) // 2], np.random.default_rng(0), "row-7")


def test_half_of_the_images_are_flipped_when_allowed() -> None:
    image = encoded(gradient(48, 40), "PNG")
    plain = Transform(augment(), SIDE)(image, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    results = [Transform(augment(flip=True), SIDE)(image, rng) for _ in range(200)]
    kinds = [np.array_equal(r, plain) + 2 * np.array_equal(r, plain[:, :, ::-1]) for r in results]
    assert set(kinds) == {1, 2}
    assert 70 < kinds.count(1) < 130


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.integers(0, 2**32),
)
def test_a_random_box_lies_inside(width: int, height: int, a: float, b: float, seed: int) -> None:
    crop = min(a, b), max(a, b)
    rng = np.random.default_rng(seed)
    left, top, right, bottom = transforms.random_box(width, height, crop, rng)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


NAMES = (
    "identity", "autocontrast", "equalize", "brightness", "sharpness",
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
)  # fmt: skip


def test_the_ten_operations_change_no_colour_and_have_the_strengths_of_the_original() -> None:
    def operate(name: str, picture: Image.Image, strength: float = 0.7, sign: int = 1) -> Any:
        operation = transforms._AUGMENTATIONS[NAMES.index(name)]
        return np.asarray(operation(picture, strength, sign)).astype(int)

    assert len(transforms._AUGMENTATIONS) == len(NAMES)
    grey = gradient(48, 40).convert("L").convert("RGB")
    for name in NAMES:
        values = operate(name, grey)
        assert values.shape == (40, 48, 3)
        assert (values.max(-1) == values.min(-1)).all(), name  # what is grey stays grey
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    right, down = operate("translate_x", white, sign=-1), operate("translate_y", white)
    assert (right[:, :7] == 128).all()
    assert (down[33:] == 128).all()
    assert (right[:, 7:] == 255).all()
    assert (down[:33] == 255).all()
    for name in ("shear_x", "shear_y", "rotate"):
        one, other = (operate(name, white, sign=sign) for sign in (1, -1))
        assert 0 < (one == 128).sum() < (one == 255).sum()
        assert not np.array_equal(one, other)
    flat = Image.new("RGB", (20, 20), (100, 100, 100))
    assert operate("identity", flat)[0, 0, 0] == 100
    assert operate("brightness", flat, 0.5)[0, 0, 0] == 100  # 0.1 + 1.8 * 0.5 = 1
    assert operate("brightness", flat)[0, 0, 0] == 136
    flat.paste((150, 150, 150), (0, 0, 10, 20))
    assert set(np.unique(operate("autocontrast", flat))) == {0, 255}


def test_what_cannot_be_decoded_is_named() -> None:
    for image in (b"", b"no picture", toy.picture(1)[:-40], png_header(0, 5)):
        with pytest.raises(ImageError, match="the image of row-7 cannot be decoded"):
            Evaluate(SIDE)(image, "row-7")
    for claim in (8193, 2**31 - 1):  # refused before decoding
        with pytest.raises(ImageError, match="image of row-7"):
            decode(png_header(claim, claim), "row-7")


def test_a_crop_that_ends_before_it_starts_is_named() -> None:
    with pytest.raises(ParamsError, match=r"crop starts at 0\.9, above its end 0\.2"):
        augment(crop=[0.9, 0.2])


@pytest.mark.parametrize("size", [(300, 200), (90, 260), (400, 60)])
def test_a_random_box_is_drawn_as_that_of_torchvision(size: tuple[int, int]) -> None:
    """Its shape, area and place; the last image is too wide for any draw."""
    width, height = size
    rng, crop = np.random.default_rng(0), (0.3, 1.0)
    picture = torch.empty(3, height, width)
    torch.manual_seed(0)
    ours = np.array([transforms.random_box(width, height, crop, rng) for _ in range(2000)])
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, crop, (3 / 4, 4 / 3)) for _ in range(2000)]
    )
    left, top, right, bottom = ours.T
    their_top, their_left, their_height, their_width = theirs.T
    for mine, other in (
        ((right - left) / (bottom - top), their_width / their_height),
        ((right - left) * (bottom - top), their_width * their_height),
        (left, their_left),
        (top, their_top),
    ):
        assert ks_2samp(mine, other).pvalue > 1e-3
    ratios = (right - left) / (bottom - top)
    assert ((ratios > 0.72) & (ratios < 1.38)).all()  # 3/4 to 4/3, rounded to pixels
