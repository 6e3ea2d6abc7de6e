"""Strict values: what a section of params.yaml is, how it is read, and what an error says.

A section's class stands beside its owner and derives from :class:`Section`. What most never touch
has its default there, beside its sentence. Nothing here imports torch.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

S = TypeVar("S", bound="Section")
_FEW = 20  # names that a sentence lists
_MAX_NODES = 100_000  # values of a file


class ParamsError(ValueError):
    """A wrong key, type or range in a params file; its text is the sentence to show."""


class Section(BaseModel):
    """A frozen section of values; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


def opt_in(off: Any) -> Any:
    """Return the default of an option that most leave off, as ``wpa: float = opt_in(0.0)``.

    While the option is off it is no part of what is dumped, so that a checkpoint and a fingerprint
    are those of before the option came.
    """
    return Field(off, exclude_if=lambda value: value == off)


class Range(Section):
    """A value to be searched: between ``low`` and ``high``, first tried at ``start``."""

    low: float
    """Lowest value tried."""
    high: float
    """Highest value tried."""
    log: bool
    """Whether to draw on a logarithmic scale."""
    start: float
    """Value of the first trial, and of a run that does not search."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is outside {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, not at {self.low:g}")
        return self


def _is_range(value: object) -> str:
    return "range" if isinstance(value, Mapping | Range) else "value"


_TAGS = {"range", "value", "[key]"}
"""Parts of a place in a section that are no keys."""
Tunable = Annotated[
    Annotated[float, Tag("value")] | Annotated[Range, Tag("range")], Discriminator(_is_range)
]
"""A value, or a range that search fills."""


def fixed(value: float | Range) -> float:
    """The value of a tunable field that has been chosen; a range is an error."""
    if isinstance(value, Range):
        raise ParamsError("a range stands where a chosen value is needed: run the search first")
    return value


def ranges(section: Section) -> dict[str, Range]:
    """The fields of ``section`` that are ranges, by name."""
    return {name: value for name, value in section if isinstance(value, Range)}


def choose(section: S, choice: Mapping[str, float]) -> S:
    """``section`` with its ranges replaced by ``choice``; each range must be chosen, no other."""
    if set(choice) != set(ranges(section)):
        raise ParamsError(
            f"the search chose {sorted(choice)}, but the ranges are {sorted(ranges(section))}: "
            "the search has to run again"
        )
    return section.model_copy(update=dict(choice))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file (as DVC reads it: ``1e-4`` is a number).

    Raises:
        ParamsError: the file is missing, damaged, no mapping, or of too many values.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        document = yaml.compose(path.read_text())
        is_small = document is None or _count(document, {}) <= _MAX_NODES
        values = yaml.constructor.construct_document(document) if document and is_small else None
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the root of the project") from None
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not is_small:
        raise ParamsError(f"{path} holds more than {_MAX_NODES:,} values, its aliases written out")
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must hold a mapping of sections")
    return values


def _count(node: Any, counts: dict[int, int]) -> int:
    """Count the values of a YAML node, with each alias written out.

    A node within itself counts as too many. ``counts`` holds the nodes counted so far.
    """
    if id(node) not in counts:
        counts[id(node)] = _MAX_NODES + 1
        parts = node.value if isinstance(node.value, list) else ()
        inner = (n for part in parts for n in (part if isinstance(part, tuple) else [part]))
        counts[id(node)] = 1 + sum(_count(n, counts) for n in inner)
    return counts[id(node)]


def read_preset(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a preset: those of its ``base``, without what ``drop`` lists, below its own.

    A mapping is laid over another key by key, unless it is of another ``kind``; all else takes the
    other's place.

    Args:
        path: a preset, or a params file, which is one without a base.
        above: presets that it is the base of.

    Raises:
        ParamsError: a base that is missing or lies on itself, or a dropped key that it lacks.
    """
    values = read_yaml(path)
    base, dropped = values.pop("base", None), values.pop("drop", ())
    if base is None:
        return values
    below = path.parent / f"{base}.yaml"
    if below in (path, *above):
        raise ParamsError(f"{path}: its base {base} is laid over it")
    if not below.exists():
        raise ParamsError(f"{path}: there is no preset {base} (base)")
    lower = read_preset(below, (*above, path))
    for key in dropped:
        *parents, last = key.split(".")
        section: Any = lower
        for part in parents:
            section = section.get(part, {})
        if last not in section:
            raise ParamsError(f"{path}: {base} has no {key} (drop)")
        del section[last]
    return _laid_over(lower, values)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old: Any = merged.get(key)
        kind = value.get("kind") if isinstance(value, Mapping) else None
        same_kind = isinstance(old, Mapping) and kind in (None, old.get("kind"))
        merged[key] = _laid_over(old, value) if same_kind and isinstance(value, Mapping) else value
    return merged


def validate(cls: type[S], values: object, *, where: str, key: str = "") -> S:
    """``values`` as a section of class ``cls``.

    Args:
        cls: the section's class.
        values: what the file holds, plain mappings, lists and scalars.
        where: the file's name, for the error.
        key: the dotted key of the section in the file.

    Raises:
        ParamsError: one sentence for each wrong key.
    """
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParamsError(
            f"{where}: {key or 'the file'} holds a value that is neither "
            f"number, text, list nor mapping ({error})"
        ) from None
    try:
        return cls.model_validate_json(text)  # JSON mode: a list may be a tuple, "3" is no number
    except ValidationError as error:
        raise ParamsError("\n".join(_sentences(cls, error, where, key))) from None


def _sentences(
    cls: type[BaseModel], error: ValidationError, where: str, prefix: str
) -> Iterator[str]:
    for item in error.errors():
        parts = [str(part) for part in item["loc"] if part not in _TAGS]
        dotted = ".".join(filter(None, [prefix, *parts]))
        match item["type"]:
            case "extra_forbidden":
                hint = did_you_mean(
                    parts[-1], _fields(cls, parts[:-1]), dotted.removesuffix(parts[-1])
                )
                yield f"{where}: {dotted} is not a known key{hint or '; remove it'}"
            case "default_factory_not_called":  # what it is made of is wrong itself
                continue
            case "missing":
                yield f"{where}: {dotted} is missing"
            case _:
                message = item["msg"].removeprefix("Value error, ")
                value = item["input"]
                suffix = "" if isinstance(value, dict | list) else f", got {value!r}"
                yield f"{where}: {dotted}: {message[:1].lower()}{message[1:]}{suffix}"


def _fields(cls: type[BaseModel], parts: list[str]) -> list[str]:
    """Field names of the section at ``parts`` below ``cls`` (none where it cannot be told)."""
    for part in parts:
        field = cls.model_fields.get(part)
        if field is None:  # a key of a mapping, such as a data set's name
            continue
        section = next(_classes(field.annotation), None)
        if section is None:
            return []
        cls = section
    return list(cls.model_fields)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _classes(inner)


def by_kind(values: object, classes: Mapping[str, type[S]]) -> S:
    """A section as the class that its ``kind`` names; for a :class:`~pydantic.PlainValidator`.

    Raises:
        ValueError: there is no such kind, or its class refuses the values.
    """
    if isinstance(values, Section):
        return cast(S, values)
    name = values.get("kind") if isinstance(values, Mapping) else None
    if name not in classes:
        problem = f"kind {name!r} is not known" if name else "kind is missing"
        raise ValueError(problem + did_you_mean(str(name), classes))
    try:
        return validate(classes[str(name)], values, where="")
    except ParamsError as error:
        lines = (line.removeprefix(": ") for line in str(error).splitlines())
        raise ValueError("; ".join(lines)) from None


def did_you_mean(name: str, candidates: Iterable[str], prefix: str = "") -> str:
    """How a sentence about an unknown name ends: the nearest known one, or a few that there are.

    Args:
        name: what is not known.
        candidates: the names that there are.
        prefix: what stands before each of them, as ``tasks.``.
    """
    names = list(candidates)
    if closest := nearest(name, names):
        return f"; did you mean {prefix}{closest}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= _FEW else ""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The known name closest to ``name``, if any is close."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None
