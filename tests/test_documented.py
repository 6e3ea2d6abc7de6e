"""docs/architecture.md names files and functions that are there."""

import ast
import re
from pathlib import Path

import pytest

from albef.config import read_yaml

ROOT = Path(__file__).parents[1]
PLACES = re.findall(
    r"`([\w/]+\.py)`(?: \| |, )`(\w+)`", (ROOT / "docs/architecture.md").read_text()
)


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_the_places_of_the_walks_are_there(file: str, name: str) -> None:
    defined = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert name in defined


def test_pools_and_deployments_are_those_of_prefect_yaml() -> None:
    made = read_yaml(ROOT / "prefect.yaml")["deployments"]
    pools, names = {it["work_pool"]["name"] for it in made}, {it["name"] for it in made}
    pages = [ROOT / "prefect.yaml", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    pools |= set(re.findall(r"deploy --name local --pool ([\w-]+)", text))  # of containers
    for told in ("work-pool create", "worker start --pool"):
        assert set(re.findall(rf"{told} ([\w-]+)", text)) == pools
    assert set(re.findall(r"(?:deployment run|schedule resume) train/([\w-]+)", text)) <= names


def test_both_walks_and_the_questions_are_tested() -> None:
    assert len(PLACES) >= 11 + 17 + 10
