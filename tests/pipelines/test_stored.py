"""Stages over a data set whose shards are in a bucket of a real S3 server."""

import json
import shutil
from pathlib import Path

import pytest

from albef.io import file_digest
from albef.report.thumbnails import SplitRecords
from tests.conftest import Bucket
from tests.pipelines.test_training import step, values, work

MODEL = Path("products/models/pretrained/model.safetensors")
WEB = Path("products/data/web")
CACHE = Path("scratch/albef/shards")


@pytest.mark.slow
def test_a_model_trained_from_a_bucket_has_the_bytes_of_one_without(
    bucket: Bucket, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/{tmp_path.name}"
    work(tmp_path, values(datasets__web__store=url))
    shutil.copytree(pretrained / "products/heldout", tmp_path / "products/heldout")
    monkeypatch.chdir(tmp_path)
    step("ingest", "web")
    step("validate", "web")
    assert {path.name for path in WEB.iterdir()} == {"dataset.json", "index.parquet", "shards.json"}
    assert CACHE.is_dir()
    assert not list(Path("scratch/albef").rglob("web-*.tar"))
    shutil.rmtree(CACHE)  # another machine, with what DVC brings
    record = step("pretrain").record
    assert record["damaged"] == {"records": 0, "shards": 0, "replaced": 0}
    for path in (MODEL, WEB / "dataset.json", WEB / "index.parquet"):
        assert file_digest(path) == file_digest(pretrained / path)
    manifest = json.loads((WEB / "shards.json").read_text())
    assert manifest["store"] == url
    digests = {shard["digest"] for shard in manifest["shards"].values()}
    assert {path.stem for path in CACHE.iterdir()} == digests

    shutil.rmtree(CACHE)
    pictures = SplitRecords(WEB, "val")
    assert len(pictures) == 32
    assert pictures.at(0).key.startswith("scenes-")
    pictures.close()

    objects = bucket.folder / tmp_path.name
    sent = {path.name: path.stat().st_mtime_ns for path in objects.iterdir()}
    assert {f"{digest}.tar" for digest in digests} == set(sent)
    step("ingest", "web")
    assert json.loads((WEB / "shards.json").read_text()) == manifest
    assert {path.name: path.stat().st_mtime_ns for path in objects.iterdir()} == sent
