import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import albef
from albef.data.image_decoding import ImageError
from albef.runtime.matching import Matching
from tests.conftest import CAPTIONS


@pytest.fixture(scope="module")
def model(tiny_export: Path) -> Matching:
    return albef.runtime.load(tiny_export)


def test_features_are_unit_vectors_that_differ(model: Matching, pictures: list[bytes]) -> None:
    for feat in (model.embed_image(pictures), model.embed_text(CAPTIONS)):
        assert feat.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(feat, axis=1), 1, rtol=1e-5)
        assert np.unique(feat.round(4), axis=0).shape == feat.shape


def test_bytes_path_opened_image_and_array_are_the_same(
    model: Matching, pictures: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(pictures[2])
    with Image.open(io.BytesIO(pictures[2])) as opened:
        array = np.asarray(opened)
        feat = model.embed_image([pictures[2], path, str(path), opened, array])
    np.testing.assert_allclose(feat, feat[[0]].repeat(5, 0), atol=1e-6)
    several = np.stack([array, 255 - array])
    expected = model.match([array, 255 - array], ["a dog"] * 2)
    np.testing.assert_allclose(model.match(several, ["a dog"] * 2), expected, atol=1e-6)


def test_an_opened_image_is_turned_and_painted_white_like_its_file(
    model: Matching, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 30, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "clear.png", exif=exif)
    with Image.open(tmp_path / "clear.png") as opened:
        feat = model.embed_image([tmp_path / "clear.png", opened])
    np.testing.assert_allclose(*feat, atol=1e-6)


def test_a_single_text_or_image_is_one_vector(
    model: Matching, pictures: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(pictures[0])
    with Image.open(tmp_path / "a.png") as opened:
        array = np.asarray(opened)
        for image in (pictures[0], tmp_path / "a.png", str(tmp_path / "a.png"), opened, array):
            feat = model.embed_image(image)
            np.testing.assert_allclose(feat, model.embed_image(pictures[:1])[0], atol=1e-6)
    assert np.array_equal(model.embed_text("a dog"), model.embed_text(["a dog"])[0])


def test_long_lists_show_their_progress_on_request(
    model: Matching, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    images, texts = pictures[:1] * 70, ["a dog"] * 70
    for call in (
        lambda progress: model.embed_image(images, progress=progress),
        lambda progress: model.embed_text(texts, progress=progress),
        lambda progress: model.match(images, texts, progress=progress),
    ):
        call(False)
        assert capsys.readouterr() == ("", "")
        assert call(True).shape[0] == 70
        out, err = capsys.readouterr()
        assert out == ""
        assert "3/3" in err


def test_texts_are_cleaned_and_cut(model: Matching) -> None:
    plain, noisy = model.embed_text(["a dog left of an apple", " A DOG, left of an... apple!"])
    np.testing.assert_allclose(plain, noisy, atol=1e-6)
    assert model.embed_text(["apple " * 500]).shape == (1, 8)


@pytest.mark.parametrize("text", ["", "\u200b", "\u0001", "..."])
def test_texts_that_are_blank_after_cleaning_are_refused(model: Matching, text: str) -> None:
    with pytest.raises(ValueError, match="text 1 is blank after cleaning"):
        model.embed_text(["a dog", text])


def test_nothing_gives_nothing(model: Matching) -> None:
    assert model.embed_image([]).shape == model.embed_text([]).shape == (0, 8)
    assert model.match([], []).shape == (0,)


def test_wrong_arguments_are_sentences(model: Matching, pictures: list[bytes]) -> None:
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        model.match(pictures[:2], ["a dog"])
    with pytest.raises(TypeError, match="texts must be a list"):
        model.match(pictures[:1], "a dog")
    with pytest.raises(TypeError, match="images must be a list"):
        model.zero_shot(np.zeros((4, 4, 3), np.uint8), ["a dog"])
    with pytest.raises(TypeError, match="texts must be a list, got generator"):
        model.embed_text(text for text in ["a dog"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images must be a list, got int"):
        model.embed_image(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text 1 must be a str, got NoneType"):
        model.embed_text(["a dog", None])  # type: ignore[list-item]
    for other in (True, None, bytearray(pictures[0])):
        with pytest.raises(TypeError, match=r"an image must be a path, .* got"):
            model.embed_image([other])  # type: ignore[list-item]
    for wrong in (np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match="convert it to uint8 of shape"):
            model.embed_image([wrong])  # type: ignore[list-item]
    with pytest.raises(ImageError, match="file 33 cannot be decoded"):
        model.embed_image([*(pictures[0] for _ in range(33)), b"no picture"])
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        model.embed_image([Path("no.png")])


def test_a_call_of_another_kind_is_reported(model: Matching) -> None:
    with pytest.raises(
        AttributeError,
        match="no attribute 'ask'; its calls: embed_image, embed_text, match, zero_shot",
    ):
        model.ask(["a.png"], ["what?"])
    with pytest.raises(AttributeError, match="no attribute 'aks'"):
        model.aks(["a.png"], ["what?"])


def test_a_class_is_the_mean_of_its_prompts(model: Matching, pictures: list[bytes]) -> None:
    labels, templates = ["a dog", "an apple", "three frogs"], ["{}", "only {} and nothing else"]
    weights = [model.embed_text([t.format(label) for t in templates]).mean(0) for label in labels]
    sims = model.embed_image(pictures) @ np.stack([w / np.linalg.norm(w) for w in weights]).T
    expected = np.exp(sims / model.facts.itc_temperature)
    found = model.zero_shot(pictures, labels, templates)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), rtol=1e-3)
    assert len(set(found[:, 0].round(4))) == len(pictures)


def test_labels_and_templates_that_make_no_prompt_are_refused(model: Matching) -> None:
    for labels, templates, message in (
        ([], ["{}"], "label and one template"),
        (["a"], [], "label and one template"),
        (["a"], ["a dog"], "'a dog' must contain {}"),
        (["a"], ["{} {}"], "must contain {}"),
        (["a"], ["{0}"], "must contain {}"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            model.zero_shot([], labels, templates)
