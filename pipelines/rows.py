"""The rows of a data set's sources, for the stages that read them."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from albef.config import ParamsError, Section, validate
from albef.data.record import Record
from albef.data.refusal import Refusal
from albef.ingest.config import RowsConfig
from albef.ingest.pool import Given
from albef.ingest.sources import rows_of
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


def read_rows(
    sources: Mapping[str, Section], stage: Stage, most: int | None = None
) -> Iterator[Given]:
    """The rows of sources one after the other, with keys and image ids of the data set.

    Args:
        sources: by name.
        stage: that reads them, for the data set of its key.
        most: rows of each to read, from the first on; None reads all.

    Raises:
        ParamsError: a source that cannot be read as a whole; it is named.
    """
    first_id = 0
    for name, source in sources.items():
        # A seed of its own: two data sets with a source of the same kind share no picture.
        seed = int(sha([stage.data_seed, stage.key, name])[:12], 16)
        next_id = first_id
        try:
            for line, row in enumerate(rows_of(source, seed, stage.scratch_root, most), 1):
                if isinstance(row, Refusal):
                    yield row.line, dataclasses.replace(row, source=name)
                    continue
                image_id = first_id + row.image_id
                next_id = max(next_id, image_id + 1)
                key = f"{name}-{row.key}"
                yield line, dataclasses.replace(row, key=key, image_id=image_id, source=name)
        except ParamsError as error:
            where = f"{PARAMS}: datasets.{stage.key}.sources.{name}"
            raise ParamsError(f"{where}: {error}") from None
        first_id = next_id


def digest_of(rows: Iterable[Given]) -> str:
    """SHA-256 of all that rows hold."""
    digest = hashlib.sha256()
    for line, row in rows:
        if isinstance(row, Record):
            for image in row.images:
                digest.update(len(image).to_bytes(8, "big") + image)
            row = dataclasses.replace(row, image=b"", more=())
        digest.update(repr((line, row)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def logged(rows: Iterable[T]) -> Iterator[T]:
    """The same rows; now and then a line says how many there were and how fast they come."""
    started = last = time.monotonic()
    for number, row in enumerate(rows, 1):
        yield row
        now = time.monotonic()
        if now - last > _LOG_EVERY:
            last = now
            log.info("%d rows, %.0f a second", number, number / (now - started))


def sha(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
