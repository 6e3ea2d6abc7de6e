"""A checkpoint is exported with one call."""

from pathlib import Path

import numpy as np
import pytest

import albef
from albef.models.weights import CheckpointError
from tests.conftest import CAPTIONS, tiny_validation


def test_every_precision_answers_as_torch(
    tiny_checkpoint: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    records = tiny_validation("retrieval", pictures)
    checkpoint = albef.load_checkpoint(tiny_checkpoint)
    precisions = ("float32", "int8")
    albef.export_onnx(checkpoint, tmp_path / "out", precisions=precisions, records=records)
    expected = albef.load(tiny_checkpoint).embed_text(CAPTIONS)
    for precision, least in (("float32", 0.9999), ("int8", 0.95)):
        model = albef.runtime.load(tmp_path / "out", precision=precision)
        assert (model.embed_text(CAPTIONS) * expected).sum(axis=1).min() > least
        assert np.isfinite(model.match(pictures[:1], CAPTIONS[:1])).all()


def test_what_cannot_be_written_is_said_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="int8 needs records"):
        albef.export_onnx(tiny_checkpoint, tmp_path / "out", precisions=["float32", "int8"])
    with pytest.raises(FileExistsError, match="exists; remove it or choose another folder"):
        albef.export_onnx(tiny_checkpoint, tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        albef.export_onnx(tmp_path / "nothing", tmp_path / "out")
    assert not [*tmp_path.iterdir()]
