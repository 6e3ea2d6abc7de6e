"""Values and rows of a dataset, for the stages that read its sources."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from albef.config import ParamsError
from albef.ingest.config import RowsConfig
from pipelines.stage import PARAMS, Stage

T = TypeVar("T")
log = logging.getLogger("albef")
_LOG_EVERY = 5.0  # seconds


def read_config(stage: Stage) -> RowsConfig:
    """Return the values of the dataset that a stage works on.

    Raises:
        ParamsError: the dataset does not exist, or a key, type or range is wrong.
    """
    datasets = stage.params.get("datasets") or {}
    if stage.key not in datasets:
        names = ", ".join(datasets) or "none"
        raise ParamsError(f"{PARAMS}: no data set {stage.key!r}; the data sets are {names}")
    return stage.section(f"datasets.{stage.key}", RowsConfig)


def log_progress(rows: Iterable[T]) -> Iterator[T]:
    """Yield the same rows, and log every few seconds how many there were and how fast they come."""
    started = last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - last > _LOG_EVERY:
            last = now
            log.info("%d rows, %.0f a second", number, number / (now - started))
