"""Where records come from: one file per kind of source, with a ``Config`` and ``records``.

The name of the kind is the name of the file. A kind also says under which licences its records
stand (``LICENCES``). Nothing here knows torch or a task.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Protocol, cast

from pydantic import Field, PlainValidator

from albef.config import Section, by_kind
from albef.data.record import Record


class Kind(Protocol):
    """What the file of a kind holds."""

    Config: type[Section]
    LICENCES: tuple[dict[str, str], ...]

    def records(self, config: Section, seed: int) -> Iterator[Record]:
        """The records of a source; their ``key`` and ``image_id`` are unique within it."""


def kinds() -> list[str]:
    """Names of all kinds of sources."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in names if hasattr(_module(name), "Config")]


def kind_of(source: Section) -> Kind:
    """The kind whose ``Config`` a source's section is."""
    return cast(Kind, importlib.import_module(type(source).__module__))


def _module(name: str) -> object:
    return importlib.import_module(f"{__name__}.{name}")


def _read(values: object) -> Section:
    """A source's section as the ``Config`` of the kind that it names."""
    return by_kind(values, {name: cast(Kind, _module(name)).Config for name in kinds()})


class SourcesConfig(Section):
    """The part of a data set's section that its bytes depend on."""

    sources: Annotated[dict[str, Annotated[Section, PlainValidator(_read)]], Field(min_length=1)]
    """Sources by name; the fields of each are those of its ``kind``."""
    shard_mb: Annotated[int, Field(ge=1)]
    """Largest size of a shard in MiB."""
