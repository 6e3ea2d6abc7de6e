"""heldout@DATASET: fingerprints of evaluation images that no screened dataset trains on."""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.record import Record
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import HELDOUT, TRAIN
from albef.ingest.pool import prepare_rows
from albef.ingest.prepare import Prepared, Rules
from albef.io import atomic
from pipelines.rows import read, workers
from pipelines.stage import Stage, main

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Write the fingerprints of a dataset's evaluation images, also mirrored and cropped."""
    limits = stage.section("ingest", IngestConfig)
    config = stage.section(f"datasets.{stage.key}", RowsConfig)
    if not config.split_off:  # Otherwise training files give evaluation rows too.
        kept = {name: source.evaluated() for name, source in config.sources.items()}
        sources = {name: source for name, source in kept.items() if source is not None}
        config = config.model_copy(update={"sources": sources})
    rows = (
        (line, row)
        for line, row in read(stage, config)
        if isinstance(row, Record) and row.split != TRAIN
    )
    rules, engine = Rules(limits, None, heldout=True), stage.runtime.engine
    fingerprints: list[dict[str, Any]] = [
        {"dataset": stage.key, "key": row.record.key, "digest": one.digest, "look": one.phash}
        for row in prepare_rows(rows, rules, workers(stage, config), engine)
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
