"""The rules of the house that no type checker knows: imports, and what a stage depends on."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from albef.config import read_yaml
from pipelines.report import NOT_SHOWN

ROOT = Path(__file__).parents[1]
PACKAGES = ("albef", "pipelines", "flows")
STAGES = (
    "heldout",
    "ingest",
    "validate",
    "pretrain",
    "search",
    "finetune",
    "evaluate",
    "export",
    "report",
)


def path_of(module: str) -> str | None:
    """The file of one of our modules, from the root; None for a foreign one."""
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if (ROOT / path).exists():
            return path.as_posix()
    return None


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for those that only a type checker runs."""
    for child in ast.iter_child_nodes(node):
        if not is_typing(child):
            yield child
            yield from walk(child)


@cache
def imports(path: str, *, lazy: bool = True) -> frozenset[str]:
    """Names of all modules that a file imports, at its top and, if ``lazy``, in its functions."""
    found: set[str] = set()
    tree = ast.parse((ROOT / path).read_text())
    for node in walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


@cache
def closure(path: str) -> frozenset[str]:
    """Files that run when a file is imported: itself, what it imports, and their packages."""
    seen: set[str] = set()
    todo = [path]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        folders = [parent / "__init__.py" for parent in Path(here).parents]
        todo += [folder.as_posix() for folder in folders if (ROOT / folder).exists()]
        todo += filter(None, (path_of(module) for module in imports(here)))
    return frozenset(seen)


def files(*patterns: str) -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for x in patterns for p in ROOT.glob(x))


def kinds() -> list[str]:
    from pipelines.params import kinds

    return [f"albef/tasks/{name}.py" for name in kinds()]


def needed(stage: str) -> set[str]:
    """The code that a stage runs, as its deps in dvc.yaml should name it."""
    code = set(closure(f"pipelines/{stage}.py"))
    if stage in ("heldout", "ingest"):  # sources are imported by the name of their kind
        code.update(*(closure(source) for source in files("albef/data/sources/*.py")))
    if stage in ("search", "finetune", "evaluate"):  # and so are tasks
        for kind in kinds():
            code |= closure(kind) - {kind}
        code.add("albef/tasks/${item.kind}.py")
    return code


def declared(stage: str) -> dict[str, Any]:
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    return dict(entry.get("do", entry))


@pytest.mark.parametrize("stage", STAGES)
def test_each_stages_deps_equal_what_it_imports(stage: str) -> None:
    found = {dep for dep in declared(stage)["deps"] if dep.endswith(".py")}
    right = needed(stage)
    listed = "\n".join(f"        - {dep}" for dep in sorted(right))
    assert found == right, (
        f"dvc.yaml, stage {stage}: too many {sorted(found - right)}, "
        f"missing {sorted(right - found)}; its code deps should be\n{listed}"
    )


def test_foreign_deps_of_the_stages_exist() -> None:
    for stage in STAGES:
        for dep in declared(stage)["deps"]:
            assert "$" in dep or (ROOT / dep).exists(), f"dvc.yaml, stage {stage}: no file {dep}"


def test_adding_a_task_a_report_field_or_a_serving_value_leaves_pretrain_fresh() -> None:
    entry = declared("pretrain")
    of_data = {f"datasets.${{pretrain.dataset}}.{name}" for name in ("augment", "window")}
    assert set(entry["params"]) == {"seed", "pretrain"} | of_data
    code = set(entry["deps"])
    assert not code & {f"albef/tasks/{Path(kind).name}" for kind in kinds()}
    for folder in ("report", "serving", "export", "runtime", "data/sources"):
        assert not {dep for dep in code if dep.startswith(f"albef/{folder}/")}, folder
    assert not {dep for dep in code if "/validation" in dep}, "only the verdict gates training"


def test_the_gate_of_a_release_leaves_every_stage_fresh() -> None:
    for stage in STAGES:
        assert not any(key.startswith("release") for key in declared(stage).get("params", ()))
    assert "release" in NOT_SHOWN  # the page shows what made the products


ALLOWED = {
    "albef": {"albef.inference", "albef.runtime"},
    "albef.cli": {"albef.config", "albef.find", "albef.layout", "albef.submission"},
    "albef.answers": set(),
    "albef.card": {"albef.layout", "albef.runtime"},
    "albef.config": set(),
    "albef.digest": set(),
    "albef.records": {"albef.digest"},
    "albef.layout": {"albef.config"},
    "albef.storage": set(),
    "albef.heatmap": set(),
    "albef.explain": {"albef.data", "albef.export", "albef.heatmap", "albef.models"},
    "albef.embed": {"albef.data", "albef.inference", "albef.runtime"},
    "albef.losses": set(),
    "albef.data": {"albef.config", "albef.digest", "albef.layout", "albef.storage"},
    "albef.lineage": {
        "albef.config",
        "albef.data",
        "albef.digest",
        "albef.layout",
        "albef.runtime",
    },
    "albef.models": {
        "albef.answers",
        "albef.digest",
        "albef.config",
        "albef.losses",
        "albef.data",
    },
    "albef.tasks": {"albef.answers", "albef.config", "albef.losses", "albef.models", "albef.data"},
    "albef.training": {
        "albef.digest",
        "albef.config",
        "albef.data",
        "albef.storage",
        "albef.tasks",
    },
    "albef.serving": {"albef.data", "albef.runtime"},
    "albef.runtime": {"albef.answers", "albef.digest", "albef.config", "albef.data"},
    "albef.importing": {"albef.digest", "albef.config", "albef.data", "albef.models"},
    "albef.inference": {"albef.export", "albef.models", "albef.runtime"},
    "albef.ask": {"albef.config", "albef.layout", "albef.inference"},
    "albef.submission": {"albef.config", "albef.data", "albef.layout"},
    "albef.export": {
        "albef.config",
        "albef.digest",
        "albef.inference",
        "albef.models",
        "albef.tasks",
        "albef.runtime",
    },
    "albef.behaviour": {"albef.config", "albef.data", "albef.tasks"},
    "albef.release": {
        "albef.behaviour",
        "albef.config",
        "albef.data",
        "albef.export",
        "albef.layout",
        "albef.runtime",
        "albef.tasks",
    },
    "albef.report": {
        "albef.config",
        "albef.data",
        "albef.heatmap",
        "albef.lineage",
        "albef.tasks.vqa_accuracy",
    },
    "albef.find": {"albef.config", "albef.data", "albef.layout", "albef.runtime"},
    "flows": {
        "albef.config",
        "albef.data.quality.drift",
        "albef.data.shards",
        "albef.layout",
        "albef.records",
        "albef.report",
    },
}
"""Parts and modules that a part may import beside itself; pipelines may import all of albef."""
FOREIGN = {
    "albef": {"prefect", "dvc", "dvclive"},
    "pipelines": {"prefect", "dvc"},
    "flows": {"torch", "timm", "transformers", "optuna", "onnxruntime", "webdataset"},
}
"""What each package never imports from outside (the curves, of dvclive, are training's)."""


def module_of(file: str) -> str:
    """The name of one of our modules, from its file."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def part(module: str) -> str:
    """The part of the house that a module or file belongs to."""
    names = module_of(module).split(".")
    return ".".join(names[:2]) if names[0] == "albef" else names[0]


@pytest.mark.parametrize("path", files("albef/**/*.py", "pipelines/*.py", "flows/*.py"))
def test_imports_run_one_way(path: str) -> None:
    here = part(path)
    for module in imports(path):
        top = module.split(".")[0]
        banned = FOREIGN[path.split("/")[0]] - ({"dvclive"} if here == "albef.training" else set())
        assert top not in banned, f"{path} imports {module}"
        file = path_of(module)
        if file is None or top not in PACKAGES or part(file) in (here, "albef"):
            continue
        if here == "pipelines":
            assert top == "albef", f"{path} imports {module}"
        else:
            assert {part(file), module_of(file)} & ALLOWED[here], f"{path} imports {module}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_a_stage(stage: str) -> None:
    others = {f"pipelines/{other}.py" for other in STAGES} - {f"pipelines/{stage}.py"}
    assert not closure(f"pipelines/{stage}.py") & others


@pytest.mark.parametrize("path", kinds())
def test_no_task_imports_a_task(path: str) -> None:
    assert not closure(path) & ({*kinds(), "albef/tasks/pretraining.py"} - {path})


@pytest.mark.parametrize("path", files("albef/training/*.py"))
def test_training_knows_no_particular_task(path: str) -> None:
    assert not closure(path) & {*kinds(), "albef/tasks/pretraining.py"}


@pytest.mark.parametrize(
    "path",
    [
        "albef/__init__.py",
        "albef/cli.py",
        "albef/find.py",
        *files("albef/runtime/*.py", "albef/serving/*.py"),
    ],
)
def test_what_serves_needs_no_torch(path: str) -> None:
    heavy = {"torch", "torchvision", "timm", "transformers", "prefect", "dvc", "optuna"}
    for file in closure(path):
        assert not {name.split(".")[0] for name in imports(file, lazy=False)} & heavy, file


def test_data_and_its_record_are_leaves() -> None:
    assert closure("albef/data/record.py") == {
        "albef/__init__.py", "albef/data/__init__.py", "albef/data/record.py"
    }  # fmt: skip
    for path in files("albef/data/**/*.py"):
        assert not any(module.startswith("albef.tasks") for module in imports(path)), path
