"""Sources of records: one file for each kind of source, with a ``Config`` and ``records``.

The kind has the name of the file. The kinds in :mod:`albef.builtin` draw their records. Every
``Config`` here is a :class:`~albef.ingest.sources.rows.Source`. No kind imports torch or a task.
"""

import hashlib
import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

import albef.builtin
from albef.builtin.view import DrawnConfig
from albef.config import ParamsError, by_kind
from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.sources.rows import Source
from albef.layout import PARAMS, Engine

SourceConfig = DrawnConfig | Source
"""Section of a source, with the files that it reads (``inputs``), the licences of its records
(``terms``), and the source without its training split (``evaluated``)."""


class Kind(Protocol):
    """Content of the file of a kind."""

    Config: type[SourceConfig]

    def records(
        self, config: SourceConfig, seed: int, *scratch: Path | int | str | None
    ) -> Iterator[Record | Rejection]:
        """Yield a record or a rejection for each row.

        Images and captions are raw; they are checked and cleaned later. A record's ``key`` is
        unique in the source, and records of the same image have the same ``image_id``. A kind with
        ``SCRATCH`` also receives a folder for files that outlast an ingest, the most rows to read
        (None for all), and the engine that fetches the files.

        Raises:
            ParamsError: the source as a whole cannot be read.
        """


@cache
def kinds() -> dict[str, Kind]:
    """Return the modules of all kinds, by name."""
    named = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for package in (albef.builtin, sys.modules[__name__])
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {
        name: cast(Kind, named[name]) for name in sorted(named) if hasattr(named[name], "Config")
    }


def kind_of(source: SourceConfig) -> Kind:
    """Return the kind whose ``Config`` the section of a source is."""
    return cast(Kind, sys.modules[type(source).__module__])


def read_rows(
    dataset: str,
    sources: Mapping[str, SourceConfig],
    seed: int,
    scratch: Path,
    max_rows: int | None = None,
    split_off: Mapping[str, float] | None = None,
    engine: Engine = "local",
) -> Iterator[tuple[int, Record | Rejection]]:
    """Yield the rows of a dataset's sources, one source after the other, with their lines.

    Keys and image ids are those of the dataset. In ``scratch``, a kind may keep files that are
    costly to fetch again. ``max_rows`` limits the rows of each source. ``split_off`` has the shares
    of the training rows that become other splits.

    Raises:
        ParamsError: a source cannot be read as a whole; the message names it.
    """
    first_id = 0
    for name, source in sources.items():
        # Each source has its own seed, so that two of the same kind draw different images.
        source_seed = hashlib.sha256(json.dumps([seed, dataset, name]).encode()).hexdigest()[:12]
        kind = kind_of(source)
        extra_args = [scratch, max_rows, engine] if getattr(kind, "SCRATCH", False) else []
        next_id = first_id
        try:
            rows = islice(kind.records(source, int(source_seed, 16), *extra_args), max_rows)
            for line, row in enumerate(rows, 1):
                if isinstance(row, Rejection):
                    yield row.line, replace(row, source=name)
                    continue
                image_id = first_id + row.image_id
                next_id = max(next_id, image_id + 1)
                if row.split == "train" and split_off:
                    split = _draw_split(split_off, seed, row.image)
                    row = replace(row, split=split, key=re.sub(r"^train-", f"{split}-", row.key))
                yield line, replace(row, key=f"{name}-{row.key}", image_id=image_id, source=name)
        except ParamsError as error:
            raise ParamsError(f"{PARAMS}: datasets.{dataset}.sources.{name}: {error}") from None
        first_id = next_id


def _draw_split(shares: Mapping[str, float], seed: int, image: bytes) -> str:
    """Draw the split of a training row by its image: equal files get the same split."""
    draw = int(hashlib.sha256(b"%d " % seed + image).hexdigest()[:13], 16) / 16**13
    for split, share in shares.items():
        if draw < share:
            return split
        draw -= share
    return "train"


def read_source(values: object) -> SourceConfig:
    """Return a source's section as the ``Config`` of its kind, for a pydantic validator.

    Raises:
        ValueError: the kind does not exist, or its class rejects the values.
    """
    return by_kind(values, {name: kind.Config for name, kind in kinds().items()})
