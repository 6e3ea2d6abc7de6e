"""The reference of the command line, from Typer."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

import albef.cli
import flows.cli
from docs.generate.text import cell


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
    return f"| `{name}` | {cell(param.help or '')} | {default} |"
