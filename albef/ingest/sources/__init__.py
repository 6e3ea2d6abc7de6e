"""Where records come from: one file per kind of source, with a ``Config`` and ``records``.

The name of the kind is the name of the file. A kind also says under which licences its records
stand (``LICENCES``); of works from outside the section says it. Nothing here knows torch or a task.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Protocol, cast

from pydantic import Field, PlainValidator

import albef.builtin
from albef.config import Section, by_kind
from albef.data.record import Record
from albef.data.refusal import Refusal
from albef.ingest.sources.licences import Licence


class Kind(Protocol):
    """What the file of a kind holds."""

    Config: type[Section]
    LICENCES: tuple[dict[str, str], ...]

    def records(
        self, config: Section, seed: int, *scratch: Path | int | None
    ) -> Iterator[Record | Refusal]:
        """What becomes of each row: a record, or a refusal that says why there is none.

        Pictures and captions are raw: they are guarded and cleaned later, for all sources alike.
        A record's ``key`` is unique in the source, its ``image_id`` equal where the picture is.
        A kind with ``SCRATCH`` is also given a folder for what should outlast an ingest, and how
        many rows will be read, None for all.

        Raises:
            ParamsError: the source as a whole cannot be read.
        """


def kinds() -> list[str]:
    """Names of all kinds of sources."""
    return sorted(name for name, module in _modules().items() if hasattr(module, "Config"))


def kind_of(source: Section) -> Kind:
    """The kind whose ``Config`` a source's section is."""
    return cast(Kind, importlib.import_module(type(source).__module__))


def files_of(source: Section) -> dict[str, Path]:
    """The files that a source reads, by name, pictures aside: of those records have the digests.

    They are the files that its values name; a kind without any tells by ``inputs`` what it draws
    from.
    """
    own = getattr(kind_of(source), "inputs", None)
    if own is not None:
        return dict(own())
    named = sorted(set(_texts(source.model_dump(mode="json", exclude={"licences"}))))
    return {text: Path(text) for text in named if _is_file(text)}


def _texts(value: object) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is no path
        return False


def licences_of(source: Section) -> list[dict[str, str]]:
    """The licences of a source's records: those of its kind, and those that its section names."""
    named: list[Licence] = getattr(source, "licences", None) or []
    return [*kind_of(source).LICENCES, *(licence.model_dump() for licence in named)]


def rows_of(
    source: Section, seed: int, scratch: Path, most: int | None = None
) -> Iterator[Record | Refusal]:
    """What becomes of each row of a source (:meth:`Kind.records`).

    Args:
        source: its section.
        seed: of what is random in it.
        scratch: folder in which a kind may keep what it would be costly to get again.
        most: rows to read, from the first on; None reads all.
    """
    kind = kind_of(source)
    more = [scratch, most] if getattr(kind, "SCRATCH", False) else []
    return islice(kind.records(source, seed, *more), most)


def count_of(source: Section) -> int | None:
    """How many rows a source has, about; None where one would have to read it to know.

    Raises:
        ParamsError: the source as a whole cannot be read.
    """
    count = getattr(kind_of(source), "count", None)
    return None if count is None else count(source)


def evaluated(source: Section) -> Section | None:
    """A source without its training split, as far as its section names splits; None where nothing
    is left. What it still yields of training is to be passed over.
    """
    for field in ("splits", "files"):
        named = getattr(source, field, None)
        if isinstance(named, dict):
            rest: object = {split: value for split, value in named.items() if split != "train"}
        elif isinstance(named, list) and "train" in named:
            rest = [split for split in named if split != "train"]
        else:
            continue
        return source.model_copy(update={field: rest}) if rest else None
    return None if getattr(source, "split", None) == "train" else source


@cache
def _modules() -> dict[str, object]:
    """The files of sources, and of the built-in data, by name."""
    names = {
        info.name: package.__name__
        for package in (albef.builtin, sys.modules[__name__])
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {name: importlib.import_module(f"{package}.{name}") for name, package in names.items()}


def module_of(kind: str) -> Kind:
    """The file of a kind of source."""
    return cast(Kind, _modules()[kind])


def _read(values: object) -> Section:
    """A source's section as the ``Config`` of the kind that it names."""
    return by_kind(values, {name: module_of(name).Config for name in kinds()})


class SourcesConfig(Section):
    """What a data set is made of, and how it is cut."""

    sources: Annotated[dict[str, Annotated[Section, PlainValidator(_read)]], Field(min_length=1)]
    """Sources by name; the fields of each are those of its ``kind``."""
    shard_mb: Annotated[int, Field(ge=1)] = 512
    """Largest size of a shard in MiB."""
