"""The rows of a data set's sources, for the stages that read them."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from albef.config import ParamsError, Section, validate
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
        last_id = first_id - 1
        rows = rows_of(source, seed, stage.scratch_root, most)
        line = 0
        while True:
            try:
                row = next(rows, None)
            except ParamsError as error:
                where = f"{PARAMS}: datasets.{stage.key}.sources.{name}"
                raise ParamsError(f"{where}: {error}") from None
            if row is None:
                break
            line += 1
            if isinstance(row, Refusal):
                yield row.line, dataclasses.replace(row, source=name)
                continue
            last_id = max(last_id, first_id + row.image_id)
            named = dataclasses.replace(
                row, key=f"{name}-{row.key}", image_id=first_id + row.image_id, source=name
            )
            yield line, named
        first_id = last_id + 1


def batches(rows: Iterable[Given], most: int, most_bytes: int) -> Iterator[tuple[list[Given], str]]:
    """Rows in lists of at most ``most`` rows, each closed at so many bytes of pictures, with a
    digest of all that they hold.
    """
    batch: list[Given] = []
    size = 0
    digest = hashlib.sha256()
    for line, row in rows:
        batch.append((line, row))
        told: tuple[object, ...]
        if isinstance(row, Refusal):
            told = (line, row)
        else:
            told = (line, row.key, row.captions, row.image_id, row.split, row.source, row.meta)
            for image in row.images:
                digest.update(len(image).to_bytes(8, "big"))
                digest.update(image)
                size += len(image)
        digest.update(repr(told).encode(errors="backslashreplace"))
        if len(batch) == most or size >= most_bytes:
            yield batch, digest.hexdigest()
            batch, size, digest = [], 0, hashlib.sha256()
    if batch:
        yield batch, digest.hexdigest()


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
