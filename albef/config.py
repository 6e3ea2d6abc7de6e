"""Strictly checked values: sections of params.yaml, how to read them, and their error messages.

The class of a section is defined next to the code that uses it and derives from :class:`Section`.
This module does not import torch.
"""

import copy
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
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
CLOSE, TYPO = 0.5, 0.85
"""Similarity of a name that may be meant, and of one that differs only by a typo. Names of two
architectures, such as albert and bert, have up to 0.8."""
_MAX_LISTED = 20  # Maximum number of names that an error message lists.
_MAX_NODES = 100_000  # Maximum number of values in a file.


class ParamsError(ValueError):
    """Error for a wrong key, type or range in a params file. Its text is shown to the user."""


class Section(BaseModel):
    """Frozen section of values. An unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


def opt_in(off: Any) -> Any:
    """Return the default of an option, which dumps omit, as in ``wpa: float = opt_in(0.0)``.

    Checkpoints and fingerprints therefore stay the same as before the option was added.
    """
    return Field(off, exclude_if=lambda value: value == off)


class Range(Section):
    """Range of a value to search: between ``low`` and ``high``, first tried at ``start``."""

    low: Annotated[float, Field(ge=0)]
    """Lowest value tried."""
    high: float
    """Highest value tried."""
    log: bool
    """If true, values are drawn on a logarithmic scale."""
    start: float
    """Value of the first trial, and of a run that does not search."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} must be in {self.low:g} to {self.high:g}")
        if self.log and not self.low:
            raise ValueError("low must be above 0 in a logarithmic range")
        return self


OWN, OTHER = "[own]", "[other]"
"""Tags of a section that is one of two classes."""
_TAGS = {"range", "value", "[key]", OWN, OTHER}
"""Parts of an error's location that are not keys."""
Tunable = Annotated[
    Annotated[float, Field(ge=0), Tag("value")] | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, Mapping | Range) else "value"),
]
"""A value of at least 0, or a range that search replaces by a value."""
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def fixed(value: float | Range) -> float:
    """Return the value of a tunable field; raise ParamsError for a range."""
    if isinstance(value, Range):
        raise ParamsError("a range needs a chosen value; run the stage search first")
    return value


def ranges(section: Section) -> dict[str, Range]:
    """Return the fields of ``section`` that are ranges, by name; ``lora.rank`` is one of a part."""
    found: dict[str, Range] = {}
    for name, value in section:
        if isinstance(value, Range):
            found[name] = value
        elif isinstance(value, Section):
            found |= {f"{name}.{inner}": range_ for inner, range_ in ranges(value).items()}
    return found


def choose(section: S, choice: Mapping[str, float]) -> S:
    """Return ``section`` with all its ranges, and no other fields, replaced by ``choice``."""
    if set(choice) != set(ranges(section)):
        raise ParamsError(
            f"the search chose {sorted(choice)}, but the ranges are {sorted(ranges(section))}; "
            "run the search again"
        )
    return replaced(section, choice)


def replaced(section: S, values: Mapping[str, Any]) -> S:
    """Return ``section`` with other values, by name; ``lora.rank`` is a field of a part."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = value
    return section.model_copy(
        update={
            part: inner[""] if "" in inner else replaced(getattr(section, part), inner)
            for part, inner in parts.items()
        }
    )


def flatten(values: Mapping[str, object], key: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted name, value) of every leaf of nested mappings, in order."""
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, dotted)
        else:
            yield dotted, value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML 1.2 file, in which ``1e-4`` is a number, as in DVC."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        values = copy.deepcopy(_parse(path.read_text()))
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the root of the project") from None
    except OSError as error:
        raise ParamsError(f"cannot read {path}: {error.strerror}") from None
    except MarkedYAMLError as error:
        line, text = error.problem_mark.line + 1, str(error.problem).split(" with value ")[0]
        raise ParamsError(f"{path} is not valid YAML: line {line}, {text}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must be a mapping of sections")
    return values


@lru_cache(maxsize=8)  # Parsing params.yaml takes 50 ms, and a graph needs its values often.
def _parse(text: str) -> object:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    document = yaml.compose(text)
    if document and _count(document, {}) > _MAX_NODES:
        raise ValueError(f"more than {_MAX_NODES:,} values after expanding aliases")
    return yaml.constructor.construct_document(document) if document else None


def _count(node: Any, counts: dict[int, int]) -> int:
    """Return the number of values of a YAML node with aliases expanded; ``counts`` is a cache."""
    if id(node) not in counts:
        counts[id(node)] = _MAX_NODES + 1  # A node that contains itself counts as too many.
        parts = node.value if isinstance(node.value, list) else ()
        inner = (n for part in parts for n in (part if isinstance(part, tuple) else [part]))
        counts[id(node)] = 1 + sum(_count(n, counts) for n in inner)
    return counts[id(node)]


def read_preset(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the values of a preset: its ``base`` without ``drop``, merged with its own values.

    Mappings are merged key by key, unless they have different ``kind``. Other values replace the
    old one. A params file is a preset without a base. ``above`` are presets that are based on this.

    Raises:
        ParamsError: the base is missing or circular, or lacks a dropped key.
    """
    values = read_yaml(path)
    base, dropped = values.pop("base", None), values.pop("drop", ())
    if base is None:
        return values
    base_file = path.parent / f"{base}.yaml"
    if base_file in (path, *above):
        raise ParamsError(f"{path}: base {base} is itself based on this preset")
    if not base_file.exists():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ParamsError(
            f"{path}: base: there is no preset {base}{did_you_mean(str(base), names)}"
        )
    base_values = read_preset(base_file, (*above, path))
    for key in dropped:
        *parents, last = key.split(".")
        section: Any = base_values
        for part in parents:
            section = section.get(part, {})
        if last not in section:
            prefix = "".join(f"{part}." for part in parents)
            hint = did_you_mean(last, section, prefix) if section else ""
            raise ParamsError(f"{path}: drop: {base} has no {key}{hint}")
        del section[last]
    return _merged(base_values, values)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old: Any = merged.get(key)
        kind = value.get("kind") if isinstance(value, Mapping) else None
        same_kind = isinstance(old, Mapping) and kind in (None, old.get("kind"))
        merged[key] = _merged(old, value) if same_kind and isinstance(value, Mapping) else value
    return merged


def validate(cls: type[S], values: object, *, where: str, key: str = "") -> S:
    """Return ``values`` as a section of class ``cls``.

    Raises:
        ParamsError: keys are wrong; a line for each names the file ``where`` and the dotted key,
            which starts with ``key``.
    """
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParamsError(
            f"{where}: {key or 'the file'} has a value that is not a number, string, list or "
            f"mapping ({error})"
        ) from None
    try:
        # In JSON mode, a list may be a tuple, and "3" is not a number.
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise ParamsError("\n".join(_messages(cls, error, where, key))) from None


def _messages(
    cls: type[BaseModel], error: ValidationError, where: str, prefix: str
) -> Iterator[str]:
    for item in error.errors():
        parts = [str(part) for part in item["loc"] if part not in _TAGS]
        dotted = ".".join(filter(None, [prefix, *parts]))
        match item["type"]:
            case "extra_forbidden":
                section, last = dotted.removesuffix(parts[-1]), parts[-1]
                which = -1 if OTHER in item["loc"] else 0
                hint = did_you_mean(last, _fields(cls, parts[:-1], which), section)
                yield f"{where}: {dotted} is not a known key{hint or '; remove it'}"
            case "missing":
                yield f"{where}: {dotted} is missing"
            case "default_factory_not_called":
                pass  # The values that the default is computed from are wrong themselves.
            case _:
                message, value = item["msg"].removeprefix("Value error, "), item["input"]
                is_told = isinstance(value, dict | list) or message.endswith("?")
                suffix = "" if is_told else f", got {value!r}"
                yield f"{where}: {dotted}: {message[:1].lower()}{message[1:]}{suffix}"


def _fields(cls: type[BaseModel], parts: list[str], which: int) -> list[str]:
    """Return the field names of the section at ``parts`` below ``cls``; empty if unknown.

    ``which`` is the index of a class, where a section may be one of several.
    """
    for part in parts:
        if part in cls.model_fields:  # Other parts are keys of a mapping, such as dataset names.
            sections = [*_classes(cls.model_fields[part].annotation)]
            if not sections:
                return []
            cls = sections[which]
    return list(cls.model_fields)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _classes(inner)


def by_kind(values: object, classes: Mapping[str, type[S]]) -> S:
    """Return a section as the class of its ``kind``, for a :class:`~pydantic.PlainValidator`."""
    if isinstance(values, Section):
        return cast(S, values)
    name = values.get("kind") if isinstance(values, Mapping) else None
    if name not in classes:
        problem = f"there is no kind {name!r}" if name else "kind is missing"
        raise ValueError(problem + did_you_mean(str(name), classes))
    try:
        return validate(classes[str(name)], values, where="")
    except ParamsError as error:
        lines = (line.lstrip(": ") for line in str(error).splitlines())
        raise ValueError("; ".join(lines)) from None


def quoted(value: Any) -> Any:
    """Return values whose texts are quoted where ruamel.yaml could not read them back.

    It writes ``?`` and ``:`` in a text without quotes even where they have a meaning.
    """
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        return DoubleQuotedScalarString(value) if {":", "?"} & {*value} else value
    if isinstance(value, Mapping):
        return {key: quoted(item) for key, item in value.items()}
    return [quoted(item) for item in value] if isinstance(value, list | tuple) else value


def did_you_mean(
    name: str, candidates: Iterable[str], prefix: str = "", cutoff: float = CLOSE
) -> str:
    """Return the end of an error message about an unknown name: a suggestion, or the known names.

    ``prefix`` precedes the suggested name, as in ``tasks.``. ``cutoff`` is the least similarity of
    the suggested name, such as :data:`TYPO`.
    """
    names = list(candidates)
    if closest := nearest(name, names, cutoff):
        return f"; did you mean {prefix}{closest}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= _MAX_LISTED else ""


def nearest(name: str, candidates: Iterable[str], cutoff: float = CLOSE) -> str | None:
    """Return the known name closest to ``name``, but another one, if any is close."""
    others = [candidate for candidate in candidates if candidate != name]
    matches = difflib.get_close_matches(name, others, n=1, cutoff=cutoff)
    return matches[0] if matches else None
