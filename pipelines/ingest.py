"""ingest@DATASET: make the records of a data set and write them as shards with an index."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError, validate
from albef.data import shard_writer
from albef.data.record import Record
from albef.data.sources import SourcesConfig, kind_of
from pipelines.stage import PARAMS, Stage, main

log = logging.getLogger("albef")
_LOG_EVERY = 5.0  # seconds


def run(stage: Stage) -> None:
    """Make a data set from its sources."""
    config = read_config(stage)
    sources = [
        {"name": name, **source.model_dump(mode="json")} for name, source in config.sources.items()
    ]
    scratch = stage.scratch(_sha([stage.data_seed, sources, config.shard_mb]))
    # A folder of its own: another clone may be making the same data set.
    with tempfile.TemporaryDirectory(dir=scratch) as work:
        part = Path(work) / stage.key
        described = shard_writer.write(
            part,
            stage.key,
            _logged(_records(config, stage)),
            shard_mb=config.shard_mb,
            licences=_licences(config),
            sources=sources,
        )
        _move(part, stage.layout.data(stage.key))
    with contextlib.suppress(OSError):
        scratch.rmdir()
    for split, count in described["splits"].items():
        log.info("%s: %d records", split, count)
    log.info(
        "%d captions, %d shards, digest %s",
        described["captions"],
        described["shards"],
        described["digest"][:16],
    )
    stage.record["records"] = described["splits"]


def read_config(stage: Stage) -> SourcesConfig:
    """The part of the data set's section that ingest depends on; ``augment`` is not read.

    Raises:
        ParamsError: no such data set, or a wrong key, type or range.
    """
    datasets = stage.params.get("datasets")
    section = datasets.get(stage.key) if isinstance(datasets, Mapping) else None
    if not isinstance(section, Mapping):
        known = ", ".join(datasets) if isinstance(datasets, Mapping) else "none"
        raise ParamsError(f"{PARAMS}: no data set {stage.key!r}; the data sets are {known}")
    values = {name: section[name] for name in SourcesConfig.model_fields if name in section}
    return validate(SourcesConfig, values, where=str(PARAMS), key=f"datasets.{stage.key}")


def _records(config: SourcesConfig, stage: Stage) -> Iterator[Record]:
    """The records of all sources one after the other, with keys and image ids of the data set."""
    first_id = 0
    for name, source in config.sources.items():
        # A seed of its own: two data sets with a source of the same kind share no picture.
        seed = int(_sha([stage.data_seed, stage.key, name])[:12], 16)
        last_id = first_id - 1
        records = kind_of(source).records(source, seed)
        while True:
            try:
                record = next(records, None)
            except ParamsError as error:
                where = f"{PARAMS}: datasets.{stage.key}.sources.{name}"
                raise ParamsError(f"{where}: {error}") from None
            if record is None:
                break
            last_id = max(last_id, first_id + record.image_id)
            yield dataclasses.replace(
                record,
                key=f"{name}-{record.key}",
                image_id=first_id + record.image_id,
                source=name,
            )
        first_id = last_id + 1


def _logged(records: Iterable[Record]) -> Iterator[Record]:
    """The same records; now and then a line says how many there were and how fast they come."""
    started = last = time.monotonic()
    for number, record in enumerate(records, 1):
        yield record
        now = time.monotonic()
        if now - last > _LOG_EVERY:
            last = now
            log.info("%d records, %.0f a second", number, number / (now - started))


def _licences(config: SourcesConfig) -> list[Mapping[str, str]]:
    """The licences of all sources, each once."""
    every = [licence for source in config.sources.values() for licence in kind_of(source).LICENCES]
    return [licence for i, licence in enumerate(every) if licence not in every[:i]]


def _move(part: Path, target: Path) -> None:
    """Put a finished folder in its place, from whatever file system; nothing half is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".part")
    for old in (beside, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.move(part, beside)
    beside.rename(target)


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    main(run)
