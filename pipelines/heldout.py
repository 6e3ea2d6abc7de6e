"""heldout@DATASET: the prints of what a data set evaluates on, which no screened one trains on."""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.refusal import Refusal
from albef.ingest.config import IngestConfig
from albef.ingest.duplicates import HELDOUT, TRAIN
from albef.ingest.pool import Given, prepared
from albef.ingest.prepare import Prepared, Rules
from albef.ingest.sources import evaluated
from pipelines.rows import logged, read_config, read_rows
from pipelines.stage import Stage, main

log = logging.getLogger("albef")


def run(stage: Stage) -> None:
    """Write what tells the pictures of a data set's evaluation splits."""
    limits = stage.section("ingest", IngestConfig)
    named = {name: evaluated(source) for name, source in read_config(stage).sources.items()}
    sources = {name: source for name, source in named.items() if source is not None}
    rows = (given for given in read_rows(sources, stage) if _is_evaluated(given))
    made = prepared(rows, Rules(limits, longest_side=None), stage.runtime.workers)
    found: list[dict[str, Any]] = [
        {"dataset": stage.key, "key": row.record.key, "digest": one.digest, "look": one.look}
        for row in logged(made)
        if isinstance(row, Prepared)
        for one in row.fingerprints
    ]
    path = stage.layout.heldout(stage.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(found, HELDOUT), part, compression="zstd")
    part.replace(path)
    log.info("%d pictures of evaluation splits", len(found))
    stage.made(path)
    stage.record["pictures"] = len(found)


def _is_evaluated(given: Given) -> bool:
    _, row = given
    return not isinstance(row, Refusal) and row.split != TRAIN


if __name__ == "__main__":
    main(run)
