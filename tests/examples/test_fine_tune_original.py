from pathlib import Path

import pytest
import torch

import albef
from examples import fine_tune_original
from tests import original as originals
from tests.commands.test_importing import original


@pytest.mark.parametrize("name", ["pretrain", "retrieval"])
def test_an_imported_checkpoint_is_fine_tuned_and_loaded(
    name: str, tmp_path: Path, pictures: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(originals.TOKENS) + "\n")
    torch.save({"model": original(name)}, tmp_path / "original.pth")
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pictures):
        (tmp_path / f"photos/{i}.jpg").write_bytes(picture)
        (tmp_path / f"photos/{i}.txt").write_text(f"w{10 + i} w{20 + i}")
    paths = [str(tmp_path / part) for part in ("original.pth", "photos", "out")]
    options = ["--tokenizer", str(tmp_path / "vocab.txt"), "--heads", "3", "4", "--steps", "2"]
    fine_tune_original.main([*paths, *options])
    assert len(capsys.readouterr().out.splitlines()) == 2
    model = albef.load(tmp_path / "out")
    assert model.match(pictures[:2], ["w10 w20", "w11 w21"]).shape == (2,)
