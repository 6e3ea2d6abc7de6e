"""The reference of the Python API, from signatures and docstrings."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import albef
from albef.commands.importing import export_original, import_original
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying
from albef.runtime.matching import Grounding, Matching
from docs.generate.text import plain

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "albef.runtime.load": albef.runtime.load,
    "albef.load": albef.load,
    "albef.commands.importing.import_original": import_original,
    "albef.commands.importing.export_original": export_original,
}
MODELS: dict[type, tuple[str, ...]] = {
    Matching: ("embed_image", "embed_text", "match", "zero_shot"),
    Grounding: ("ground",),
    Answering: ("ask",),
    Classifying: ("classify",),
}
"""Classes of models, and the methods of each to call."""


def python_page() -> str:
    """Return the reference of the functions, then of the models that they return."""
    parts: list[str] = []
    for name, function in FUNCTIONS.items():
        parts += [f"## `{name}`", *_body(name.rsplit(".", 1)[-1], function)]
    for cls, names in MODELS.items():
        parts += [f"## `{cls.__module__}.{cls.__name__}`", plain(inspect.getdoc(cls) or "")]
        for name in names:
            parts += [f"### `{cls.__name__}.{name}`", *_body(name, getattr(cls, name))]
    return "\n\n".join(parts)


def _body(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the signature of a function, and the parts of its docstring."""
    call = textwrap.fill(f"{name}{_signature(function)}", 96, subsequent_indent="    ")
    yield f"```\n{call}\n```"
    for part in plain(inspect.getdoc(function) or "").split("\n\n"):
        title, _, entries = part.partition("\n")
        if part.startswith(">>>"):
            yield "```python\n" + re.sub(r"^>>> ", "", part, flags=re.M) + "\n```"
        elif title in ("Args:", "Raises:", "Returns:"):
            yield f"{title}\n\n{_list(textwrap.dedent(entries))}"
        else:
            yield part


def _signature(function: Callable[..., Any]) -> str:
    """Return a signature without `self` and without the modules of types."""
    text = str(inspect.signature(function)).replace("(self, ", "(")
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", text)
    return re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"NDArray[\1]", text)


def _list(entries: str) -> str:
    """Return entries such as ``name: meaning``, each with indented further lines, as a list."""
    joined = re.sub(r"\n +", " ", entries)
    return "\n".join(re.sub(r"^(\w+): ", r"- `\1`: ", line) for line in joined.splitlines())
