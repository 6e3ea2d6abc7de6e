"""What the code of a stage says, in a word: comments, docstrings and blank lines do not count."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from albef.config import read_yaml

GRAPH = Path("dvc.yaml")
"""Lists the code of each stage, from the root of the project."""
_KIND = "${item.kind}"
_CODE = ("albef/", "pipelines/")


def code_digest(root: Path, address: str, params: Mapping[str, Any]) -> str:
    """SHA-256 over the code that a stage runs, as dvc.yaml lists it.

    Args:
        root: of the project.
        address: ``NAME`` or ``NAME@KEY`` of the stage.
        params: the whole params file, plain; it has the kinds of the runs.

    Returns:
        The digest in hex, or "" where no dvc.yaml lists the stage or a file is missing.
    """
    path = root / GRAPH
    if not path.is_file():
        return ""
    name, _, key = address.partition("@")
    stage = _stages(path.read_text(), path).get(name, {})
    kind = params.get("tasks", {}).get(key, {}).get("kind", "")
    found = hashlib.sha256()
    listed = [str(dep) for dep in stage.get("do", stage).get("deps", ())]
    named = {dep.replace(_KIND, kind) for dep in listed if dep.startswith(_CODE)}
    files: set[str] = set()
    for name in named:
        inside = (root / name).rglob("*.py") if (root / name).is_dir() else [root / name]
        files |= {path.relative_to(root).as_posix() for path in inside}
    for file in sorted(files):
        if not (root / file).is_file():
            return ""
        found.update(f"{file}\n{said((root / file).read_text())}\n".encode())
    return found.hexdigest() if files else ""


@cache
def _stages(text: str, path: Path) -> dict[str, Any]:
    """The stages of the graph, which takes a while to read."""
    found: dict[str, Any] = read_yaml(path).get("stages", {})
    return found


@cache
def said(source: str) -> str:
    """A module without comments, docstrings and blank lines; the same in every Python."""
    lines = source.splitlines()
    for first, last in _docstrings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    left = "\n".join(lines) + "\n"
    for token in _comments(left):
        row, column = token.start
        lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """First and last line of each; and of the strings under a field, which explain it."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for own in body if isinstance(body, list) else ():
            match own:
                case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                    yield first, last


def _comments(source: str) -> Iterator[tokenize.TokenInfo]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return (token for token in tokens if token.type == tokenize.COMMENT)
