"""The reference of params.yaml: a page for each group of sections, from their classes."""

import importlib
import inspect
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from albef.builtin.view import DrawnConfig
from albef.config import Range, Section
from albef.ingest.sources import kinds as source_kinds
from albef.ingest.sources.rows import Source
from albef.tasks.matching import MatchingConfig
from albef.tasks.task import MomentumConfig, RunConfig, TrainingConfig
from docs.generate.text import anchor, cell, plain
from pipelines.params import Params, kinds

Headings = dict[type[BaseModel], str]
"""Classes that a page describes, in its order, and the heading of each."""

VALUES = {
    "runtime": ("paths", "runtime"),
    "data": ("datasets", "curate", "ingest", "validate"),
    "training": ("pretrain", "tasks", "search"),
    "results": ("evaluate", "export", "release", "report"),
}
"""Pages and their sections of params.yaml."""


def values_page(page: str) -> str:
    """Return a page of values: a table for each class, each value described once."""
    return "\n\n".join(_Tables(_headings(page)).render())


def _headings(page: str) -> Headings:
    """Return what a page describes. A class comes after those that it derives from."""
    headings: Headings = {}
    if page == "training":
        headings[TrainingConfig] = "Every training"
        headings[MatchingConfig] = "ITC and ITM"
    fields = {field.alias or name: field for name, field in Params.model_fields.items()}
    for key in VALUES[page]:
        if key == "tasks":
            headings[RunConfig] = "`tasks.RUN`"
            headings[MomentumConfig] = "Momentum model of a run"
            for kind in kinds():
                config = importlib.import_module(f"albef.tasks.{kind}").Config
                headings[config] = f"`tasks.RUN` of kind {kind}"
            continue
        section = next(_classes(fields[key].annotation))
        headings[section] = f"`{key}{'.NAME' * (key in ('datasets', 'curate'))}`"
        if key == "datasets":
            headings[Source] = "`datasets.NAME.sources.NAME`"
            headings[DrawnConfig] = "Built-in sources"
            for kind, source in source_kinds().items():
                headings[source.Config] = f"Source of kind {kind}"
    return headings


class _Tables:
    """Tables of a page's classes; a class and a value that occur again are links."""

    def __init__(self, headings: Headings) -> None:
        self.headings = headings
        self.places: dict[tuple[str, str], str] = {}
        """Heading under which a value with this name and description is."""

    def render(self) -> Iterator[str]:
        for cls, heading in list(self.headings.items()):
            yield from self._section("##", cls, heading)

    def _section(self, level: str, cls: type[BaseModel], heading: str) -> Iterator[str]:
        yield f"{level} {heading}"
        first_line = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        known = [base for base in cls.__mro__[1:] if base in self.headings]
        nearest = [each for each in known if not any(each in base.__mro__[1:] for base in known)]
        links = " and ".join(self._link(base) for base in nearest)
        yield plain(first_line) + (f" The values of {links} belong here too." if links else "")
        shown = {name: field for name, field in cls.model_fields.items() if self._owns(cls, name)}
        path = heading.strip("`") if heading.startswith("`") and " " not in heading else ""
        inner: Headings = {}
        for name, field in shown.items():
            for section in _classes(field.annotation):
                if section is not Range and section not in self.headings:
                    inner[section] = f"`{f'{path}.{name}'.lstrip('.')}`{_variant(section, field)}"
                    self.headings[section] = inner[section]
        if shown:
            rows = [self._row(name, field, heading) for name, field in shown.items()]
            yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
        for section, title in inner.items():
            yield from self._section("###", section, title)

    def _owns(self, cls: type[BaseModel], name: str) -> bool:
        """Return whether a class defines a value, or no described class does."""
        owner = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
        return owner is cls or owner not in self.headings

    def _row(self, name: str, field: FieldInfo, heading: str) -> str:
        meaning = cell(field.description or "")
        place = self.places.setdefault((name, meaning), heading)
        if meaning and place != heading:
            meaning = f"as in [{place}](#{anchor(place)})"
        cells = (f"`{name}`", self._type(field.annotation, field), _default(field), meaning)
        return f"| {' | '.join(cells)} |"

    def _link(self, cls: type[BaseModel], text: str | None = None) -> str:
        heading = self.headings[cls]
        return f"[{text or heading}](#{anchor(heading)})"

    def _type(self, annotation: Any, field: FieldInfo | None = None) -> str:
        """Return a type as a reader of YAML thinks of it."""
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._type(args[0])
        if origin in (Union, UnionType):
            parts = [self._type(part) for part in args]
            text = "number, searchable" if "range" in parts else " or ".join(dict.fromkeys(parts))
        elif origin is Literal:
            text = ", ".join(f"`{value}`" for value in args)
        elif origin in (list, tuple):
            text = f"list of {self._type(args[0])}"
        elif origin is dict:
            text = f"mapping of {self._type(args[0])} to {self._type(args[1])}"
        elif annotation in self.headings:
            text = self._link(annotation, "section")
        else:
            names = {Range: "range", int: "integer", float: "number", str: "text"}
            names |= {bool: "`true`, `false`", type(None): "null"}
            text = names.get(annotation, "section" if annotation is Section else "value")
        bounds = [_bound(item) for item in field.metadata] if field else []
        return ", ".join([text, *filter(None, bounds)])


def _variant(section: type[BaseModel], field: FieldInfo) -> str:
    """Return what tells a section from others that the same key may hold."""
    others = [cls for cls in _classes(field.annotation) if cls is not Range]
    if len(others) == 1:
        return ""
    kind = section.model_fields.get("kind")
    names = get_args(kind.annotation) if kind else ()
    own = [name for name in section.model_fields if name in ("timm", "transformers")]
    return f" of kind {names[0]}" if names else f" with `{own[0]}`" if own else ""


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    is_section = inspect.isclass(annotation) and issubclass(annotation, BaseModel)
    if is_section and annotation is not Section:
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _bound(item: object) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(item, name):g}" for name, sign in signs.items() if hasattr(item, name)
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see the section"
    if isinstance(value, bool) or value is None:
        return f"`{'null' if value is None else str(value).lower()}`"
    if value == "":
        return '`""`'
    return f"`{value}`" if not isinstance(value, tuple) else f"`{list(value)}`"
