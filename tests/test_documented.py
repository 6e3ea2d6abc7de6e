"""What the docs name is there: files, functions, pools, commands and their options."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import albef
import albef.cli
import flows.cli
from albef.config import read_yaml
from docs.generate import render_pages
from tests.serving.running import running

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKDOWN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
PLACES = re.findall(
    r"`([\w/]+\.py)`(?: \| |, )`(\w+)`", (ROOT / "docs/explanation/architecture.md").read_text()
)


@cache
def defined(file: str) -> set[str]:
    """Names of all functions and classes in a file of ours."""
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def test_the_places_of_both_walks_and_the_questions_are_there() -> None:
    assert len(PLACES) >= 11 + 17 + 10
    assert not [(file, name) for file, name in PLACES if name not in defined(file)]


def test_generated_pages_are_those_of_the_code() -> None:
    stale = [path.name for path, text in render_pages().items() if path.read_text() != text]
    assert not stale, "run `python -m docs.generate`"


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may name, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)", page.read_text(), re.M)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def test_links_lead_somewhere() -> None:
    links = [
        (page, link)
        for page in MARKDOWN
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    ]
    assert not [(page.name, link) for page, link in links if not leads_somewhere(page, link)]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of ours in a page's code, after `albef`."""
    text = page.read_text()
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for code in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
        if found := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*albef ([a-z].*)", code.strip()):
            yield re.sub(r"'[^']*'|\"[^\"]*\"| #.*|[;&|].*", " WORD ", found[1]).split()


KNOWN: dict[str, Any] = {
    name: command
    for app in (albef.cli.app, flows.cli.app)
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
}


def unknown(words: list[str]) -> set[str]:
    """What of a command the command line does not know: the command itself or its options."""
    known = KNOWN.get(words[0])
    if hasattr(known, "commands") and len(words) > 1:
        known = known.commands.get(words[1])
    if known is None:
        return {" ".join(words[:2])}
    options = {option for param in known.params for option in param.opts} | {"--help"}
    return {word.partition("=")[0] for word in words if word.startswith("--")} - options


def test_commands_and_options_are_those_of_the_command_line() -> None:
    told = [(page, words) for page in PAGES for words in commands(page)]
    assert len(told) >= 120
    wrong = [(page.name, words[0], unknown(words)) for page, words in told]
    assert not [it for it in wrong if it[2]]


def python_blocks(page: Path) -> list[str]:
    """The blocks of Python in a page that use this project."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return [block for block in blocks if "albef." in block]


# tests/test_guides.py applies the blocks of the guides that extend the code.
RUN = [page for page in PAGES if python_blocks(page) and not page.stem.startswith("add-a-")]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_python_runs(
    page: Path,
    tiny_exports: dict[str, Path],
    tiny_checkpoints: dict[str, Path],
    pictures: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder, products in (("exports", tiny_exports), ("models", tiny_checkpoints)):
        (tmp_path / "products" / folder).mkdir(parents=True)
        for kind in set(re.findall(rf'"products/{folder}/([a-z0-9]+)"', page.read_text())):
            (tmp_path / "products" / folder / kind).symlink_to(products[kind])
    for name in ("a.png", "b.png", "cat.png", "dog.png"):
        (tmp_path / name).write_bytes(pictures[0])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"albef": albef}
    for block in python_blocks(page):
        exec(block, names)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_is_answered(
    tiny_exports: dict[str, Path],
    pictures: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (ROOT / "docs/how-to/serve.md").read_text()
    lines = re.findall(r"^(?:curl|printf) .+", page, re.M)
    assert len(lines) >= 20
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "b.jpg"):
        Path(name).write_bytes(pictures[0])
    kinds = ("retrieval", "vqa", "entailment", "nlvr2", "grounding")
    with running([tiny_exports[kind] for kind in kinds]) as server:
        Path(".curlrc").write_text('noproxy = "*"\nsilent\nshow-error\nfail-with-body\n')
        monkeypatch.setenv("CURL_HOME", str(tmp_path))
        for line in lines:
            command = line.replace("localhost:8080", f"127.0.0.1:{server.port}")
            ended = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
            assert ended.returncode == 0, (line, ended.stdout, ended.stderr)


def test_pools_and_deployments_are_those_of_prefect_yaml() -> None:
    made = read_yaml(ROOT / "prefect.yaml")["deployments"]
    pools, names = {it["work_pool"]["name"] for it in made}, {it["name"] for it in made}
    text = "\n".join(page.read_text() for page in [ROOT / "prefect.yaml", *PAGES])
    pools |= set(re.findall(r"deploy --name local --pool ([\w-]+)", text))  # of containers
    for told in ("work-pool create", "worker start --pool"):
        assert set(re.findall(rf"{told} ([\w-]+)", text)) == pools
    assert set(re.findall(r"(?:deployment run|schedule resume) train/([\w-]+)", text)) <= names
