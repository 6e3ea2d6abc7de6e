"""Reference pages that are made from the code: values, commands, HTTP calls and the Python API.

``python -m docs.generate`` writes them. The part of a page above its mark is written by hand.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from docs.generate.commands import commands_page
from docs.generate.http import http_page
from docs.generate.python import parts_page, python_page
from docs.generate.values import VALUES, values_page

REFERENCE = Path(__file__).parents[1] / "reference"
MARK = "<!-- Below, `python -m docs.generate` writes the page from the code. -->\n"


def render_pages() -> dict[Path, str]:
    """Return the whole text of each page that has a generated part."""
    parts: dict[str, Callable[[], str]] = {
        "commands": commands_page,
        "http": http_page,
        "python": python_page,
        "parts": parts_page,
        **{f"values/{page}": partial(values_page, page) for page in VALUES},
    }
    paths = {name: REFERENCE / f"{name}.md" for name in parts}
    heads = {name: path.read_text().partition(MARK)[0] for name, path in paths.items()}
    return {
        paths[name]: f"{heads[name]}{MARK}\n{make().rstrip()}\n" for name, make in parts.items()
    }
