import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from albef.commands import explain
from albef.data.image_decoding import ImageError
from albef.export.modules import Matcher
from albef.export.torch_model import load
from albef.models.gradcam import itm_maps
from albef.models.weights import load_checkpoint
from albef.preprocessing.text import clean_caption

TEXT = "Two apples above a squid."


def test_maps_are_grad_cam_of_words_and_text(tiny_checkpoint: Path, pictures: list[bytes]) -> None:
    checkpoint, model = load_checkpoint(tiny_checkpoint), load(tiny_checkpoint)
    explanation = explain.explain(checkpoint, pictures[1], TEXT)
    assert [word for word, _, _ in explanation.words] == ["two", "apples", "above", "a", "squid"]
    assert sum(share for _, _, share in explanation.words) == pytest.approx(1)
    assert explanation.probability == pytest.approx(float(model.match([pictures[1]], [TEXT])[0]))

    cleaned = clean_caption(TEXT, model.facts.max_words)
    ids, mask = map(torch.from_numpy, model.ids([TEXT]))
    pixels = torch.from_numpy(model.pixels([pictures[1]]))
    matcher = Matcher(checkpoint)
    states = matcher.model.encode_image(pixels)
    text_states = matcher.model.encode_text(ids, mask)
    maps = itm_maps(matcher.model, matcher.itm_head, text_states, mask, states, 0)[0].numpy()
    np.testing.assert_allclose(explanation.heat, maps.mean(0), atol=1e-7)
    tokens = model.tokenizer.tokenizer.encode(cleaned)
    for number, (_, heat, _) in enumerate(explanation.words):
        places = [i for i, word in enumerate(tokens.word_ids) if word == number]
        np.testing.assert_allclose(heat, maps[places].mean(0), atol=1e-7)
    assert len(tokens.ids) - 1 > len(explanation.words)  # a word of several tokens has one map


def test_writes_a_figure(
    tiny_checkpoint: Path,
    pictures: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy.png").write_bytes(pictures[1])
    explain.main(Path("toy.png"), TEXT, tiny_checkpoint)
    first, path = capsys.readouterr().out.splitlines()
    assert "% probability" in first
    assert path == "toy.explained.png"
    with Image.open(path) as figure:
        assert figure.width > 4 * 240
    explain.main(Path("toy.png"), TEXT, tiny_checkpoint, out=Path("again.png"))
    assert Path("again.png").read_bytes() == Path(path).read_bytes()


def test_a_long_text_and_a_tall_image_fit(tiny_checkpoint: Path, pictures: list[bytes]) -> None:
    text = " ".join(["two apples above a squid"] * 20)
    explanation = explain.explain(load_checkpoint(tiny_checkpoint), pictures[2], text)
    with Image.open(io.BytesIO(pictures[2])) as tall:
        page = explain.draw_figure(tall.convert("RGB"), text, explanation)
    assert page.width == 18 + 4 * 258
    assert 1 <= len(explanation.words) < 30  # the model reads no more tokens


def test_the_layer_is_the_checkpoints_own(tiny_checkpoint: Path, pictures: list[bytes]) -> None:
    values = {"values": {"max_tokens": 12, "gradcam": "itm", "layer": 1}}
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), config=values)
    last = explain.explain(checkpoint, pictures[0], TEXT)
    assert last.heat.any()
    assert not any(heat.any() for _, heat, _ in last.words)  # only [CLS] is left to look


def test_errors_are_sentences(tiny_checkpoint: Path, pictures: list[bytes], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(ValueError, match="text is empty"):
        explain.explain(checkpoint, pictures[0], " ?! ")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png cannot be decoded"):
        explain.main(broken, TEXT, tiny_checkpoint)
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        explain.main(tmp_path / "gone.png", TEXT, tiny_checkpoint)
