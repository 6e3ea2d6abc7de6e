"""Which captions stay, by written scores."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef import curation
from albef.config import validate
from albef.curation import SCORES, CurateConfig, choose, write_filtered, write_scores
from albef.data.shards import Shards, describe
from tests.data import toy


def config(**rule: float) -> CurateConfig:
    return validate(CurateConfig, {"dataset": "web", "by": "b", **rule}, where="tests")


def test_the_best_share_stays_and_of_equal_scores_the_earlier() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5], np.float32)
    assert choose(scores, config(keep=0.4)).tolist() == [True, True, False, False, False]
    assert choose(scores, config(keep=1.0)).all()
    assert choose(scores, config(threshold=0.5)).tolist() == [True, True, True, False, True]


def test_rows_lie_together_across_splits_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = ["train", "test", "train", "train", "val", "train", "train"]
    records = [
        toy.record(
            i, split=split, captions=tuple(f"{i} {j}" for j in range(1 + i % 3)),
            meta={"noise": "wrong"} if i == 3 else {}, more=(toy.picture(90 + i),),
        )
        for i, split in enumerate(splits)
    ]  # fmt: skip
    toy.write(tmp_path / "web", records)
    texts = [c for record in records if record.split == "train" for c in record.captions]
    stays = [text not in ("0 0", "2 0", "3 0", "5 1") for text in texts]
    scores = pa.table([np.float32(stays), np.float32(stays)], schema=SCORES)
    for rows in (2, 10_000):
        monkeypatch.setattr(curation, "_ROWS", rows)
        described = write_filtered(
            tmp_path / "clean", tmp_path / "web", np.array(stays), {"by": "b"}
        )
        view = {
            record.key: (record.captions, record.images)
            for split in ("train", "test", "val")
            for record in Shards(tmp_path / "clean", split)
        }
        kept = set(itertools.compress(texts, stays))
        left = {
            record.key: tuple(c for c in record.captions if record.split != "train" or c in kept)
            for record in records
        }
        assert [key for key, captions in left.items() if not captions] == ["toy-0000", "toy-0003"]
        assert view == {r.key: (left[r.key], r.images) for r in records if left[r.key]}
        assert described == describe(tmp_path / "clean")
        assert described["splits"] == {"train": 3, "test": 1, "val": 1}
        write_scores(tmp_path / "scores.parquet", tmp_path / "web", scores, np.array(stays))
        table = pq.read_table(tmp_path / "scores.parquet")
        assert table["caption"].to_pylist() == texts
        assert table["kept"].to_pylist() == stays
        assert table["noise"].to_pylist() == ["wrong" if t[0] == "3" else "" for t in texts]
