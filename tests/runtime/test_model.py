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


def test_bytes_path_and_opened_image_are_the_same(
    model: Matching, pictures: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(pictures[2])
    with Image.open(io.BytesIO(pictures[2])) as opened:
        feat = model.embed_image([pictures[2], path, str(path), opened])
    np.testing.assert_allclose(feat, feat[[0]].repeat(4, 0), atol=1e-6)


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
        model.embed_text("a dog")
    with pytest.raises(TypeError, match="images must be a list"):
        model.embed_image(pictures[0])  # type: ignore[arg-type]
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
