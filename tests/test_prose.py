"""The language of the project: standard terms, short sentences, good openings."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = [path for top in ("albef", "pipelines", "flows") for path in (ROOT / top).rglob("*.py")]
PAGES = [*ROOT.glob("*.md"), ROOT / "benchmarks/README.md", *(ROOT / "docs").rglob("*.md")]
HOME_MADE = re.compile(
    r"\b(twins?|set aside|at hand|told|goes on|(?<!there )(is|are) no|of its own|rung|data sets?|"
    r"whatever)\b",
    re.I,
)
"""Terms for which the field has others: momentum model, rejected, local, reported, resumes, ..."""
MOST_WORDS = 40


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a file, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        value = getattr(node, "value", None) if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value


@cache
def texts() -> list[tuple[str, str]]:
    """Place and text of all pages and docstrings, without code and tables."""
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", " ", page.read_text(), flags=re.S)
        lines = [line for line in text.splitlines() if not re.match(r"\s*([|#!<]|:::|-{3})", line)]
        found.append((str(page.relative_to(ROOT)), "\n".join(lines)))
    for path in CODE:
        found += [(f"{path.relative_to(ROOT)}:{n}", text) for n, text in docstrings(path)]
    return found


def other_texts() -> Iterator[tuple[str, str]]:
    """Place and text of configuration, templates and web pages, and the names of tests."""
    suffixes = {".yaml", ".toml", ".json", ".j2", ".html", ".js", ".css", ".conf", ".Dockerfile"}
    files = [ROOT / "Makefile", *ROOT.glob("*.yaml"), *ROOT.glob("*.yml"), *ROOT.glob("*.toml")]
    for top in ("ablations", "albef", "behaviour", "deploy", "docs", "presets"):
        files += [path for path in (ROOT / top).rglob("*") if path.suffix in suffixes]
    for path in files:
        yield str(path.relative_to(ROOT)), path.read_text()
    for path in (ROOT / "tests").rglob("*.py"):
        names = re.findall(r"def (test_\w+)", path.read_text())
        yield str(path.relative_to(ROOT)), "\n".join(names).replace("_", " ")


def sentences(text: str) -> list[str]:
    text = re.sub(r"`+[^`]*`+", "CODE", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    return re.split(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*[-*\d]+\.?\s", text)


def test_all_texts_use_the_terms_of_the_field() -> None:
    found = [
        (place, match[0])
        for place, text in (*texts(), *other_texts())
        for match in HOME_MADE.finditer(re.sub(r"`+[^`]*`+", "", text))
    ]
    assert not found


def test_no_sentence_is_long() -> None:
    lengths = [(place, len(s.split()), s[:60]) for place, text in texts() for s in sentences(text)]
    assert not [each for each in lengths if each[1] > MOST_WORDS]


def test_docstrings_say_what_is_done_not_what_it_is_about() -> None:
    opens = re.compile(r"\s*(What|Whether|Where|How)\b")
    assert not [place for place, text in texts() if ".py:" in place and opens.match(text)]


def test_rows_of_tables_are_on_one_line() -> None:
    lines = [(page.name, line) for page in PAGES for line in page.read_text().splitlines()]
    assert not [each for each in lines if each[1][:1] == "|" != each[1][-1:]]
