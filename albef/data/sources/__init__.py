"""Where records come from: one file per kind of source, with a ``Config`` and ``records``.

The name of the kind is the name of the file. A kind also says under which licences its records
stand (``LICENCES``). Nothing here knows torch or a task.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Protocol, cast

from pydantic import Field, PlainValidator

from albef.config import Section, by_kind
from albef.data.record import Record
from albef.digest import file_digest


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


def inputs_of(source: Section) -> dict[str, str]:
    """SHA-256 by name of the files that a source reads, pictures aside: records have their digests.

    A kind that reads none that its values name tells by ``inputs`` what it draws from.
    """
    own = getattr(kind_of(source), "inputs", None)
    if own is not None:
        return {name: file_digest(path) for name, path in own().items()}
    texts = sorted(set(_texts(source.model_dump(mode="json"))))
    return {text: file_digest(Path(text)) for text in texts if Path(text).is_file()}


def _texts(value: object) -> Iterator[str]:
    """Every text in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


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
