"""Rows of a dataset's sources, for the stages that read them."""

import logging
import time
from collections.abc import Iterator

from albef.builtin.view import DrawnConfig
from albef.ingest.config import RowsConfig
from albef.ingest.pool import NumberedRow
from albef.ingest.sources import read_rows
from pipelines.stage import Stage

log = logging.getLogger("albef")
_LOG_EVERY_S = 5.0


def workers(stage: Stage, config: RowsConfig) -> int:
    """Return the number of processes that prepare rows: 0 if built-in sources draw them all.

    Processes only protect from images that come from outside.
    """
    drawn = all(isinstance(source, DrawnConfig) for source in config.sources.values())
    return 0 if drawn else stage.runtime.workers


def read(stage: Stage, config: RowsConfig) -> Iterator[NumberedRow]:
    """Yield the numbered rows of a dataset; log their number and rate every few seconds."""
    scratch, engine = stage.runtime.scratch_root, stage.runtime.engine
    rows = read_rows(
        stage.key, config.sources, stage.data_seed, scratch,
        split_off=config.split_off, engine=engine,
    )  # fmt: skip
    started = last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - last > _LOG_EVERY_S:
            last = now
            log.info("%d rows, %.0f per second", number, number / (now - started))
