"""The stage that lets a data set pass, or stops the pipeline."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef.builtin import scenes
from albef.config import validate
from albef.data.record import Record
from albef.ingest import shard_writer
from pipelines import validate as stage_module
from pipelines.report import data_page
from pipelines.stage import Stage
from tests.pipelines.test_ingest import ROOT, SCENES, params
from tests.pipelines.test_ingest import here as here


def write(here: Path, share_emptied: float) -> str:
    """The data set ``toy``, with a share of its captions emptied; returns its digest."""
    values = {**SCENES, "splits": {"train": 80, "test": 20}, "caption_noise": 0.0}
    config = validate(scenes.Config, values, where="test")

    def emptied() -> Iterator[Record]:
        number = itertools.count()
        for record in scenes.records(config, 1):
            captions = tuple(
                "" if int((n + 1) * share_emptied) > int(n * share_emptied) else caption
                for caption, n in zip(record.captions, number, strict=False)
            )
            yield dataclasses.replace(record, captions=captions)

    folder = here / "products" / "data" / "toy"
    written = shard_writer.write(folder, "toy", emptied(), shard_mb=1, licences=[], sources=[])
    return str(written["digest"])


def test_a_good_dataset_gets_a_verdict_that_holds_its_digest_alone(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = write(here, 0)
    caplog.set_level("INFO", "albef")
    stage_module.run(Stage("validate", "toy"))
    assert "albef data accept toy" in caplog.text
    verdict = here / "products" / "verdicts" / "toy.json"
    assert json.loads(verdict.read_text()) == {"dataset": "toy", "digest": digest}
    params(here, {"placed": SCENES}, validate={"max_caption_words": 40})
    before = verdict.read_bytes()
    stage_module.run(Stage("validate", "toy"))
    assert verdict.read_bytes() == before, "another threshold leaves the verdict as it is"


def test_thirty_percent_of_the_captions_emptied_stop_the_pipeline(here: Path) -> None:
    write(here, 0.3)
    verdict = here / "products" / "verdicts" / "toy.json"
    verdict.parent.mkdir(parents=True)
    verdict.write_text("of better data")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.validate", "toy"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1, lines  # no trace, no notes of a library
    for part in (
        "validate@toy: dataset toy fails validation: captions are not empty",
        "expect_column_values_to_be_between of captions.words at least 1",
        "45 of 152 (29.6 %) fail, none may (validate.max_empty_captions)",
        "albef data page toy",
    ):
        assert part in lines[0]
    assert not verdict.exists()
    page = data_page("toy")
    failing = page.read_text().partition("Failed: captions are not empty")[2]
    rows = failing.partition("<details")[0]
    assert rows.count("<figure><img") == rows.count("words 0: ") == 8

    params(here, {"placed": SCENES}, validate={"max_empty_captions": 0.31})
    stage_module.run(Stage("validate", "toy"))
    assert verdict.exists(), "allowed it passes"
