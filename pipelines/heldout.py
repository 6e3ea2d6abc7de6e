"""heldout@DATASET: fingerprints of evaluation images that no screened dataset trains on."""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.record import Record
from albef.ingest.config import IngestConfig
from albef.ingest.duplicates import HELDOUT, TRAIN
from albef.ingest.pool import prepare_rows
from albef.ingest.prepare import Prepared, Rules
from albef.ingest.sources import read_rows
from albef.io import atomic
from pipelines.rows import log_progress, read_config
from pipelines.stage import Stage, main

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Write the fingerprints of a dataset's evaluation images, also mirrored and cropped."""
    limits = stage.section("ingest", IngestConfig)
    config = read_config(stage)
    sources = config.sources
    if not config.split_off:  # Otherwise training files give evaluation rows too.
        kept = {name: source.evaluated() for name, source in sources.items()}
        sources = {name: source for name, source in kept.items() if source is not None}
    seed, scratch, engine = stage.data_seed, stage.runtime.scratch_root, stage.runtime.engine
    numbered = read_rows(
        stage.key, sources, seed, scratch, split_off=config.split_off, engine=engine
    )
    rows = ((line, row) for line, row in numbered if isinstance(row, Record) and row.split != TRAIN)
    prepared = prepare_rows(rows, Rules(limits, None, heldout=True), stage.runtime.workers, engine)
    fingerprints: list[dict[str, Any]] = [
        {"dataset": stage.key, "key": row.record.key, "digest": one.digest, "look": one.phash}
        for row in log_progress(prepared)
        if isinstance(row, Prepared)
        for one in row.fingerprints
    ]
    path = stage.layout.heldout(stage.key)
    with atomic(path) as part:
        pq.write_table(pa.Table.from_pylist(fingerprints, HELDOUT), part, compression="zstd")
    log.info("%d fingerprints of evaluation images", len(fingerprints))
    stage.made(path)
    stage.record["images"] = len(fingerprints)


if __name__ == "__main__":
    main(run)
