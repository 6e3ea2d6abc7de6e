from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.commands import find
from albef.commands.panels import SIDE
from albef.config import ParamsError
from albef.data.record import Record
from albef.data.shards import Shards
from albef.runtime import load
from albef.runtime.matching import as_matching

TEXT = "two apples above a squid"


def search(export: Path, shards: Shards, text: str = TEXT, k: int = 5) -> None:
    find.main(export, shards, text, k, shards.folder.parent / "kept")


def test_prints_the_best_and_a_page_and_keeps_features(
    tiny_export: Path, shards: Shards, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tiny_export, shards)
    first = capsys.readouterr()
    *lines, page = first.out.splitlines()
    assert len(lines) == 5
    assert "40 images of scenes" in first.err
    with Image.open(page) as shown:
        assert shown.width > 4 * SIDE
        assert shown.height > 2 * SIDE  # a second row

    search(tiny_export, shards)
    assert capsys.readouterr() == (first.out, "")
    (kept,) = Path(page).parent.glob("*.npy")
    kept.write_bytes(b"no features")
    search(tiny_export, shards)
    assert capsys.readouterr() == first
    search(tiny_export, shards, k=1000)  # more than are re-ranked, and than there are
    assert len(capsys.readouterr().out.splitlines()) == 40 + 1


def test_ranks_as_reading_every_image_would(
    tiny_export: Path, shards: Shards, scenes: list[Record], tmp_path: Path
) -> None:
    model = as_matching(load(tiny_export), "")
    sim = model.embed_image([record.image for record in scenes]) @ model.embed_text([TEXT])[0]
    best = np.argsort(-sim, kind="stable")[: find.RERANKED]
    logits = model.match_logits([scenes[i].image for i in best], [TEXT] * len(best))
    order = np.argsort(logits[:, 0] - logits[:, 1], kind="stable")[:3]
    hits = find.find(model, shards, TEXT, 3, tmp_path)
    assert [hit.key for hit in hits] == [scenes[best[i]].key for i in order]
    chances = model.match([hit.image for hit in hits], [TEXT] * 3)
    np.testing.assert_allclose([hit.probability for hit in hits], chances, atol=1e-5)


def test_errors_are_sentences(
    tiny_export: Path, tiny_exports: dict[str, Path], shards: Shards
) -> None:
    with pytest.raises(ParamsError, match="the text is empty"):
        search(tiny_export, shards, text="  ")
    with pytest.raises(ValueError, match="no image-text matching"):
        search(tiny_exports["vqa"], shards)
