"""The public names: listed once, documented, typed, and loaded only when they are used."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import albef
from docs.generate.python import NEEDS_NO_TORCH
from tests import user_script

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / f"docs/reference/{name}.md" for name in ("python", "parts")]
PAGE = "\n".join(page.read_text() for page in PAGES)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_the_page_documents_the_public_names_and_no_others() -> None:
    documented = re.findall(r"^###? `albef\.([\w.]+)`", PAGE, re.M)
    own = {name for name in documented if not name.startswith("runtime.") and name.count(".") == 0}
    assert own == set(albef.__all__) - {"runtime"}
    assert len(documented) == len(set(documented))
    listed = re.search(r"need no torch: (.+)", PAGE)
    assert listed
    assert re.findall(r"`albef\.(\w+)`", listed[1]) == sorted(NEEDS_NO_TORCH)


def test_every_public_function_and_class_has_a_docstring() -> None:
    assert not [name for name in albef.__all__ if not getattr(albef, name).__doc__]


WITHOUT_TORCH = """
import importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "timm", "transformers"):
            raise ModuleNotFoundError(f"No module named {name}", name=name)

sys.meta_path.insert(0, Block())
import albef
found = {"names": dir(albef), "imported": [], "errors": []}
for name in albef.__all__:
    try:
        getattr(albef, name)
        found["imported"].append(name)
    except ImportError as error:
        found["errors"].append(f"{error}")
print(json.dumps(found))
"""


def test_without_torch_only_the_names_that_need_it_are_missing() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert sorted(found["imported"]) == sorted(NEEDS_NO_TORCH)
    assert set(albef.__all__) <= set(found["names"])
    for error in found["errors"]:
        assert re.match(r"albef\.\w+ needs torch: install the extra train", error)


def test_importing_albef_imports_nothing_heavy() -> None:
    program = "import sys, albef; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_the_script_of_a_user_runs(
    tiny_checkpoint: Path, tiny_export: Path, pictures: list[bytes]
) -> None:
    assert user_script.similarity(str(tiny_checkpoint), str(tiny_export)) < 1e-4
    checkpoint = albef.load_checkpoint(tiny_checkpoint)
    images = torch.randn(2, 3, 16, 16)
    assert user_script.losses(checkpoint, images, ["a dog", "two apples"]).isfinite()


@pytest.mark.slow
def test_the_script_of_a_user_passes_mypy_in_strict_mode(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--no-incremental"]
    script = tmp_path / "script.py"
    script.write_text(Path(user_script.__file__).read_text())
    command += ["--follow-imports", "silent", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_examples_are_short_run_by_tests_and_use_public_names_alone() -> None:
    assert len(EXAMPLES) == 5
    for path in EXAMPLES:
        text = path.read_text()
        assert len(text.splitlines()) <= 80, path
        assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
        assert (ROOT / f"tests/examples/test_{path.name}").exists()
        assert not re.findall(r"^(?:from albef|import albef\.)", text, re.M)
        assert set(re.findall(r"(?<!\.)\balbef\.([A-Za-z_]+)", text)) <= set(albef.__all__), path
