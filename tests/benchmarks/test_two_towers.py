"""The plain script trains on a dataset of ours with local weights."""

import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from benchmarks import two_towers
from tests.conftest import CAPTIONS
from tests.data import toy
from tests.preprocessing.test_public import vocabulary


def text_encoder(folder: Path) -> Path:
    vocabulary(folder, cased=False)
    size = len((folder / "vocab.txt").read_text().splitlines())
    config = BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_it_learns_to_rank_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = (0, 90, 160, 255)
    toy.write(
        tmp_path / "toy",
        [
            toy.record(i, key=f"{split}{i}", split=split, captions=(caption, f"{caption} again"),
                       image=toy.picture(colours[i], (20, 20)))
            for split in ("train", "val", "test")
            for i, caption in enumerate(CAPTIONS)
        ],
    )  # fmt: skip
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(weights, tmp_path / "vit.safetensors")
    command = [str(tmp_path / "toy"), "--image", "test_vit", "--text"]
    command += [str(text_encoder(tmp_path / "text")), "--weights"]
    command += [str(tmp_path / "vit.safetensors"), "--epochs", "150", "--dropout", "0"]
    monkeypatch.setattr(sys, "argv", ["two_towers", *command])
    two_towers.main()
    for name, line in zip(("val", "test"), capsys.readouterr().out.splitlines(), strict=True):
        split, *values = line.split()
        recalls = dict(zip(values[::2], map(float, values[1::2]), strict=True))
        assert split == name
        assert recalls["tr@1"] == recalls["ir@1"] == 100
