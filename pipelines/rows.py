"""The values and rows of a data set, for the stages that read its sources."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from albef.config import ParamsError, validate
from albef.ingest.config import RowsConfig
from pipelines.stage import PARAMS, Stage

T = TypeVar("T")
log = logging.getLogger("albef")
_LOG_EVERY = 5.0  # seconds


def read_config(stage: Stage) -> RowsConfig:
    """The values of the data set that a stage works on.

    Raises:
        ParamsError: no such data set, or a wrong key, type or range.
    """
    datasets = stage.params.get("datasets")
    section = datasets.get(stage.key) if isinstance(datasets, Mapping) else None
    if not isinstance(section, Mapping):
        known = ", ".join(datasets) if isinstance(datasets, Mapping) else "none"
        raise ParamsError(f"{PARAMS}: no data set {stage.key!r}; the data sets are {known}")
    return validate(RowsConfig, section, where=str(PARAMS), key=f"datasets.{stage.key}")


def logged(rows: Iterable[T]) -> Iterator[T]:
    """The same rows; now and then a line says how many there were and how fast they come."""
    started = last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - last > _LOG_EVERY:
            last = now
            log.info("%d rows, %.0f a second", number, number / (now - started))
