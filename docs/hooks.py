"""What MkDocs adds to reference pages from the code: values, commands and HTTP calls.

MkDocs imports this file (``hooks`` in mkdocs.yml). The lists are made while the site is built, so
they cannot fall behind the code.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastapi import FastAPI
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

sys.path.insert(0, str(Path(__file__).parents[1]))

import albef.cli
import flows.cli
from albef.config import Range, Section
from albef.ingest.sources import kinds as source_kinds
from albef.serving.routes import calls, compatible, indexes, server
from pipelines.params import Params, kinds


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a reference page with its list; its last paragraph is for readers outside the site."""
    generated = {
        "reference/values.md": values_page,
        "reference/commands.md": commands_page,
        "reference/http.md": http_page,
    }
    render = generated.get(page.file.src_uri)
    if render is None:
        return markdown
    introduction, _ = markdown.rstrip().rsplit("\n\n", 1)
    return f"{introduction}\n\n{render()}"


def values_page() -> str:
    """Return the reference of params.yaml: a table for each section, from its class."""
    parts: list[str] = []
    for name, field in Params.model_fields.items():
        section = next(_classes(field.annotation), None)
        key = field.alias or name
        if key == "tasks":
            for kind in kinds():
                config = importlib.import_module(f"albef.tasks.{kind}").Config
                parts += _section("tasks.RUN", config, f" (kind: {kind})")
        elif section is not None:
            parts += _section(key + ".NAME" * (key in ("datasets", "curate")), section)
        if key == "datasets":
            for kind, source in source_kinds().items():
                parts += _section("sources.NAME", source.Config, f" (kind: {kind})")
    return "\n\n".join(parts)


def _section(key: str, section: type[BaseModel], suffix: str = "") -> list[str]:
    return [f"## `{key}`{suffix}", _first_line(section), *_tables(key, section)]


def _first_line(owner: object) -> str:
    return (inspect.getdoc(owner) or "").split("\n\n")[0].replace("\n", " ")


def _tables(key: str, cls: type[BaseModel]) -> Iterator[str]:
    """Yield the table of a section and those of the sections inside it."""
    rows, inner = ["| key | type | default | meaning |", "|---|---|---|---|"], []
    for name, field in cls.model_fields.items():
        cells = [f"`{name}`", _type(field.annotation, field), _default(field), field.description]
        rows.append("| " + " | ".join(_cell(str(cell or "")) for cell in cells) + " |")
        sections = [c for c in _classes(field.annotation) if c is not Range]
        inner += [(f"{key}.{name}", section) for section in sections]
    yield "\n".join(rows)
    for path, section in inner:
        yield f"### `{path}`"
        yield _first_line(section)
        yield from _tables(path, section)


def _cell(text: str) -> str:
    """Return a docstring's text as one Markdown table cell."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    is_section = inspect.isclass(annotation) and issubclass(annotation, BaseModel)
    if is_section and annotation is not Section:
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def _type(annotation: Any, field: FieldInfo | None = None) -> str:
    """Return a type as a reader of YAML thinks of it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0])
    if origin in (Union, UnionType):
        parts = [_type(part) for part in args]
        text = "number, searchable" if "range" in parts else " or ".join(dict.fromkeys(parts))
    elif origin is Literal:
        text = ", ".join(f"`{value}`" for value in args)
    elif origin in (list, tuple):
        text = f"list of {_type(args[0])}"
    elif origin is dict:
        text = f"mapping of {_type(args[0])} to {_type(args[1])}"
    elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        text = "range" if annotation is Range else "section"
    else:
        names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
        text = names.get(annotation, "null" if annotation in (None, type(None)) else "value")
    bounds = [_bound(item) for item in field.metadata] if field else []
    return ", ".join([text, *filter(None, bounds)])


def _bound(item: object) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(item, name):g}" for name, sign in signs.items() if hasattr(item, name)
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=not field.default_factory_takes_validated_data)
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, bool) or value is None:
        return f"`{'null' if value is None else str(value).lower()}`"
    return f"`{value}`" if not isinstance(value, tuple) else f"`{list(value)}`"


def commands_page() -> str:
    """Return the reference of the command line, from Typer."""
    groups = [get_command(flows.cli.app), get_command(albef.cli.app)]
    parts: list[str] = []
    for command, path in sorted(
        (pair for group in groups for pair in _commands(group, "albef")), key=lambda pair: pair[1]
    ):
        parts.append(f"## `{path}`")
        usage = [p.metavar or p.name.upper() for p in command.params if _is_argument(p)]
        usage = [
            f"[{w}]" if not p.required else w
            for w, p in zip(usage, filter(_is_argument, command.params), strict=True)
        ]
        parts.append(f"```\n{' '.join([path, *usage, '[OPTIONS]'])}\n```")
        parts.append(
            re.sub(r"(?s)Example: (albef .*)", _example, inspect.cleandoc(command.help or ""))
        )
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            parts.append("\n".join(["| | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _example(match: re.Match[str]) -> str:
    return f"Example:\n\n```\n{' '.join(match[1].split())}\n```"


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _commands(command: Any, path: str) -> Iterator[tuple[Any, str]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield command, path
        return
    for name, child in inner.items():
        yield from _commands(child, f"{path} {name}")


def _parameter(param: Any) -> str:
    name = param.metavar or param.name.upper() if _is_argument(param) else ", ".join(param.opts)
    if not _is_argument(param) and param.metavar:
        name += f" {param.metavar}"
    default = "" if param.default in (None, False, [], ()) else f"`{param.default}`"
    default = "required" if param.required else default
    return f"| `{name}` | {_cell(param.help or '')} | {default} |"


def http_page() -> str:
    """Return the reference of the server's calls, from OpenAPI."""
    app = FastAPI(title="ALBEF", version="1")
    for part in (calls, compatible, indexes, server):
        app.include_router(part.router)
    schema = app.openapi()
    parts: list[str] = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += [f"## `{method.upper()} {path}`", operation.get("description", "")]
            content = operation.get("requestBody", {}).get("content", {})
            for media_type, body in content.items():
                fields = _fields(body["schema"], schema)
                parts.append(f"Body, `{media_type}`:\n\n{fields}" if fields else "")
            answer = operation["responses"].get("200", {}).get("content", {})
            fields = _fields(answer.get("application/json", {}).get("schema", {}), schema)
            parts.append(f"Answer:\n\n{fields}" if fields else "")
            statuses = sorted(set(operation["responses"]) - {"200"})
            parts.append(f"Other statuses: {', '.join(statuses)}." if statuses else "")
    return "\n\n".join(filter(None, parts))


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in part:
        found: dict[str, Any] = schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]]
        return found
    return part


def _fields(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a table of an object's fields."""
    resolved = _resolve(part, schema)
    rows = [
        f"| `{name}` | {_json_type(field, schema)} | "
        f"{'yes' if name in resolved.get('required', ()) else ''} | "
        f"{_cell(field.get('description', ''))} |"
        for name, field in resolved.get("properties", {}).items()
    ]
    return "\n".join(
        ["| field | type | required | meaning |", "|---|---|---|---|", *rows] if rows else []
    )


def _json_type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    resolved = _resolve(field, schema)
    if "anyOf" in resolved:
        return " or ".join(dict.fromkeys(_json_type(each, schema) for each in resolved["anyOf"]))
    if resolved.get("type") == "array":
        return f"list of {_json_type(resolved.get('items', {}), schema)}"
    is_file = resolved.get("format") == "binary" or "contentMediaType" in resolved
    return "file" if is_file else str(resolved.get("type", "value"))
