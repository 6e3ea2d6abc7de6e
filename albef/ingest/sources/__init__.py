"""Where records come from: one file per kind of source, with a ``Config`` and ``records``.

The name of the kind is the name of the file. Those of :mod:`albef.builtin` draw what they yield; a
``Config`` here is a :class:`~albef.ingest.sources.rows.Source`. Nothing here knows torch or a task.
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
from albef.builtin.view import Drawn
from albef.config import ParamsError, by_kind
from albef.data.record import Record
from albef.data.refusal import Refusal
from albef.ingest.sources.rows import Source
from albef.layout import PARAMS, Engine

SourceConfig = Drawn | Source
"""The section of a source, which also says which files it reads (``inputs``), under which licences
its records are (``terms``), and what is left of it without training (``evaluated``)."""


class Kind(Protocol):
    """What the file of a kind holds."""

    Config: type[SourceConfig]

    def records(
        self, config: SourceConfig, seed: int, *scratch: Path | int | str | None
    ) -> Iterator[Record | Refusal]:
        """What becomes of each row: a record, or a refusal that says why there is none.

        Pictures and captions are raw: they are guarded and cleaned later, for all sources alike.
        A record's ``key`` is unique in the source, its ``image_id`` equal where the picture is.
        A kind with ``SCRATCH`` is also given a folder for what should outlast an ingest, how many
        rows will be read, None for all, and what it may fetch them by.

        Raises:
            ParamsError: the source as a whole cannot be read.
        """


@cache
def kinds() -> dict[str, Kind]:
    """The files of all kinds, by name."""
    named = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for package in (albef.builtin, sys.modules[__name__])
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {
        name: cast(Kind, named[name]) for name in sorted(named) if hasattr(named[name], "Config")
    }


def kind_of(source: SourceConfig) -> Kind:
    """The kind whose ``Config`` a source's section is."""
    return cast(Kind, sys.modules[type(source).__module__])


def read_rows(
    dataset: str,
    sources: Mapping[str, SourceConfig],
    seed: int,
    scratch: Path,
    max_rows: int | None = None,
    split_off: Mapping[str, float] | None = None,
    engine: Engine = "local",
) -> Iterator[tuple[int, Record | Refusal]]:
    """What becomes of the rows of a data set's sources, one after the other, with their lines and
    with keys and image ids of the data set: of each the first ``max_rows``, or all; of those of the
    training split the shares ``split_off`` are of other ones. In ``scratch`` a kind may keep what
    it would be costly to get again, and gets it by ``engine``.

    Raises:
        ParamsError: a source that cannot be read as a whole; it is named.
    """
    first_id = 0
    for name, source in sources.items():
        # A seed of its own: two data sets with a source of the same kind share no picture.
        source_seed = hashlib.sha256(json.dumps([seed, dataset, name]).encode()).hexdigest()[:12]
        kind = kind_of(source)
        extra_args = [scratch, max_rows, engine] if getattr(kind, "SCRATCH", False) else []
        next_id = first_id
        try:
            rows = islice(kind.records(source, int(source_seed, 16), *extra_args), max_rows)
            for line, row in enumerate(rows, 1):
                if isinstance(row, Refusal):
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
    """The split of a training row, drawn by its picture: equal files are of one split."""
    draw = int(hashlib.sha256(b"%d " % seed + image).hexdigest()[:13], 16) / 16**13
    for split, share in shares.items():
        if draw < share:
            return split
        draw -= share
    return "train"


def read_source(values: object) -> SourceConfig:
    """A source's section as the ``Config`` of the kind that it names; for a
    :class:`~pydantic.PlainValidator`.

    Raises:
        ValueError: there is no such kind, or its class refuses the values.
    """
    return by_kind(values, {name: kind.Config for name, kind in kinds().items()})
