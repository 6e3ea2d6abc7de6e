"""Values and rows of a dataset, for the stages that read its sources."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from albef.config import ParamsError, did_you_mean
from albef.ingest.config import RowsConfig
from pipelines.stage import PARAMS, Stage

T = TypeVar("T")
log = logging.getLogger("albef")
_LOG_EVERY_S = 5.0


def read_config(stage: Stage) -> RowsConfig:
    """Return the values of the dataset that a stage works on.

    Raises:
        ParamsError: the dataset does not exist, or a key, type or range is wrong.
    """
    datasets = stage.params.get("datasets") or {}
    if stage.key not in datasets:
        hint = did_you_mean(stage.key, datasets, "datasets.")
        raise ParamsError(f"{PARAMS}: datasets.{stage.key} does not exist{hint}")
    return stage.section(f"datasets.{stage.key}", RowsConfig)


def log_progress(rows: Iterable[T]) -> Iterator[T]:
    """Yield the same rows, and log their number and rate every few seconds."""
    started = last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - last > _LOG_EVERY_S:
            last = now
            log.info("%d rows, %.0f per second", number, number / (now - started))
