from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from albef.commands import embed
from albef.data.record import Record
from albef.data.shards import Shards
from albef.export.torch_model import load
from albef.metrics import ranking
from albef.models.matching import first_rank
from albef.models.weights import load_checkpoint
from albef.tasks.rates import recalls
from albef.tasks.retrieval import Task
from tests.conftest import tiny_config

Columns = dict[str, Any]


def _read(path: Path) -> tuple[Columns, Columns]:
    """The rows of images and those of texts."""
    table = pq.read_table(path).to_pydict()
    parts = []
    for kind in ("image", "text"):
        places = [i for i, each in enumerate(table["kind"]) if each == kind]
        parts.append({name: [column[i] for i in places] for name, column in table.items()})
    return parts[0], parts[1]


def run(checkpoint: Path, folder: Path, out: Path, split: str = "test") -> None:
    embed.main(folder, split, checkpoint, "cpu", out)


def test_recall_from_the_features_is_that_of_evaluation(
    tiny_checkpoint: Path, shards: Shards, scenes: list[Record], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for record in scenes:
        (folder / f"{record.key}.png").write_bytes(record.image)
        (folder / f"{record.key}.txt").write_text("\n".join(record.captions) + "\n\n")
    task = Task.restore(tiny_config(), load_checkpoint(tiny_checkpoint)).eval()
    metrics = ranking.score(task.predict(shards, 7))
    features = []
    for source in (shards.folder, folder):
        out = tmp_path / f"{source.name}.parquet"
        run(tiny_checkpoint, source, out)
        images, texts = _read(out)
        sim = torch.tensor(images["feature"]) @ torch.tensor(texts["feature"]).t()
        image_ids, text_ids = (torch.tensor(rows["image_id"]) for rows in (images, texts))
        right = image_ids[:, None] == text_ids[None, :]
        ranks = [first_rank(s, r).tolist() for s, r in ((sim, right), (sim.t(), right.t()))]
        result = recalls(*ranks)
        assert result == pytest.approx({name: metrics[f"itc_{name}"] for name in result})
        features.append((images["feature"], texts["feature"]))
    assert features[0] == features[1]
    assert 0 < metrics["itc_tr@10"] < 100


def test_rows_of_a_checkpoint_or_export_say_whose_they_are(
    tiny_checkpoint: Path, tiny_export: Path, pictures: list[bytes], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (folder := tmp_path / "photos").mkdir()
    (folder / "below").mkdir()
    (folder / "b.PNG").write_bytes(pictures[0])
    (folder / "below" / "a.jpeg").write_bytes(pictures[2])
    (folder / "b.txt").write_text("a dog\n\n  two apples \n", encoding="utf-8")
    (folder / "alone.txt").write_text("of no picture")
    torch_model, out = load(tiny_checkpoint), tmp_path / "x.parquet"
    for weights in (tiny_checkpoint, tiny_export):
        run(weights, folder, out)
        assert capsys.readouterr().out == f"2 images, 2 texts\n{out}\n"
        images, texts = _read(out)
        assert images["key"] == ["b.PNG", "below/a.jpeg"]
        assert images["text"] == [None, None]
        assert texts["key"] == ["b.PNG", "b.PNG"]
        assert texts["text"] == ["a dog", "two apples"]
        assert texts["image_id"] == [0, 0]
        expected = torch_model.embed_image([pictures[0], pictures[2]])
        np.testing.assert_allclose(images["feature"], expected, atol=1e-5)
        expected = torch_model.embed_text(["a dog", "two apples"])
        np.testing.assert_allclose(texts["feature"], expected, atol=1e-5)
        digest = pq.read_schema(out).metadata[b"weights"].decode()
        assert digest == embed.load_model(weights, "cpu").digest
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "x.parquet"}


def test_errors_are_sentences(
    tiny_checkpoint: Path, pictures: list[bytes], shards: Shards, tmp_path: Path
) -> None:
    def fails(message: str, folder: Path = tmp_path / "few", split: str = "test") -> None:
        with pytest.raises(ValueError, match=message):
            run(tiny_checkpoint, folder, tmp_path / "out.parquet", split)

    (folder := tmp_path / "few").mkdir()
    fails("gone does not exist", tmp_path / "gone")
    fails(r"has no images \(jpg")
    (folder / "moving.GIF").write_bytes(pictures[0])
    assert len(embed.Folder(folder)) == 1
    with pytest.raises(ValueError, match="nowhere does not exist"):
        run(tiny_checkpoint, folder, tmp_path / "nowhere" / "x.parquet")
    (folder / "moving.txt").write_bytes(b"\xff\xfe\x00")
    fails(r"moving\.txt is not UTF-8 text")
    (folder / "moving.txt").unlink()
    (folder / "latin.png").write_bytes(b"nothing")
    fails(r"image of latin\.png cannot be decoded")
    fails("has no split 'tset'; its splits are test", shards.folder, "tset")
    assert {path.name for path in tmp_path.iterdir()} == {"few", "scenes"}
