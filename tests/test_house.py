"""The rules of the house that no type checker knows: imports, and what a stage depends on."""

import ast
import importlib
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from albef import run_record
from albef.config import read_yaml
from pipelines.report import NOT_SHOWN

ROOT = Path(__file__).parents[1]
STAGES = tuple(read_yaml(ROOT / "dvc.yaml")["stages"])


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


def refuse(offenders: Iterable[str]) -> None:
    if lines := sorted(offenders):
        pytest.fail("\n".join(lines), pytrace=False)


def sources() -> list[str]:
    return files("albef/**/*.py", "pipelines/**/*.py", "flows/**/*.py")


def kinds() -> list[str]:
    from pipelines.params import kinds

    return [f"albef/tasks/{name}.py" for name in kinds()]


def needed(stage: str) -> set[str]:
    """The code that a stage runs, with what it imports lazily and by name."""
    code = set(closure(f"pipelines/{stage}.py"))
    if stage in ("heldout", "ingest"):  # sources are imported by the name of their kind
        code.update(*map(closure, files("albef/ingest/sources/*.py", "albef/builtin/*.py")))
    if stage in ("search", "finetune", "evaluate", "export"):  # and so are tasks
        code.update(*map(closure, kinds()))
    if stage in ("evaluate", "export"):  # and metrics
        code.update(*map(closure, files("albef/metrics/*.py")))
    return {path for path in code if not path.endswith("/__init__.py")}


def declared(stage: str) -> dict[str, Any]:
    entry = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    return dict(entry.get("do", entry))


def code_deps(stage: str) -> list[str]:
    """The code that a stage declares in dvc.yaml, as files and folders."""
    return [dep for dep in declared(stage)["deps"] if dep.startswith(("albef/", "pipelines/"))]


def lies_in(path: str, dep: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


def test_what_a_stage_imports_lies_in_what_it_declares() -> None:
    wrong = []
    for stage in STAGES:
        deps, right = code_deps(stage), needed(stage)
        for path in right:
            if not any(lies_in(path, dep) for dep in deps):
                wrong.append(f"dvc.yaml, stage {stage}: its deps lack {path}")
        for dep in deps:
            if "$" not in dep and not any(lies_in(path, dep) for path in right):
                wrong.append(f"dvc.yaml, stage {stage}: it does not run {dep}")
    refuse(wrong)


BY_KIND = "albef/tasks/", "albef/metrics/"


def by_kind(paths: Iterable[str]) -> set[str]:
    """Those of some files that are of a kind or a helper of kinds."""
    return {path for path in paths if path.startswith(BY_KIND) and "__init__" not in path}


def used(stage: str, kind: str) -> set[str]:
    """The code of kinds by which a stage of a run is fresh or stale."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    paths = run_record.used_files(stages, f"{stage}@mine", {"tasks": {"mine": {"kind": kind}}})
    return by_kind(path.as_posix() for path in paths)


def test_a_stage_depends_on_the_code_of_the_kind_of_its_run_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for file in kinds():
        kind = Path(file).stem
        family = importlib.import_module(f"albef.tasks.{kind}").Task.metrics
        scoring = closure(f"{family.replace('.', '/')}.py")
        for stage, further in (("search", ()), ("finetune", ()), ("evaluate", scoring)):
            imported = {*closure(file), *closure(f"pipelines/{stage}.py"), *further}
            assert used(stage, kind) == by_kind(imported)
    assert used("finetune", "vqa").isdisjoint(
        f"albef/tasks/{x}.py" for x in ("ranking", "matching")
    )


def test_packages_themselves_hold_no_code_that_an_artifact_depends_on() -> None:
    heavy = {"albef.models", "albef.tasks"}
    packages = files("albef/**/__init__.py", "pipelines/__init__.py")
    refuse(path for path in packages if heavy & set(map(part, imports(path, lazy=False))))


def test_git_keeps_metrics_and_run_records_alone_of_the_artifacts() -> None:
    roots = ("products", "products/smoke")
    few = "metrics/vqa.json", "metrics/exports/vqa.json", "runs/pretrain.json", "models/mine.dvc"
    rest = ("data/web/index.parquet", "models/vqa", "report/index.html")
    kept, others = ([f"{root}/{name}" for root in roots for name in names] for names in (few, rest))
    command = ["git", "check-ignore", "--no-index", *kept, *others]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert ignored == others


def test_an_edit_beside_training_leaves_pretrain_fresh() -> None:
    assert set(declared("pretrain")["params"]) == {"seed", "pretrain"}
    beside = (
        "report", "serving", "export", "runtime", "ingest", "validation", "evaluation", "metrics",
    )  # fmt: skip
    edited = [
        *kinds(),
        "albef/tasks/ranking.py",
        *files(*(f"albef/{folder}/**/*.py" for folder in beside)),
    ]
    deps = code_deps("pretrain")
    refuse(path for path in edited if any(lies_in(path, dep) for dep in deps))


def test_the_gate_of_a_release_leaves_every_stage_fresh() -> None:
    for stage in STAGES:
        assert not any(key.startswith("release") for key in declared(stage).get("params", ()))
    assert "release" in NOT_SHOWN  # the page shows what made the products


FLOORS = (
    "config", "io", "worker", "layout", "trackers", "cluster", "run_record",
    "data", "preprocessing", "builtin", "ingest", "validation",
    "distributed", "losses", "models", "loading", "tasks", "training", "search", "metrics",
    "evaluation", "runtime", "export", "curation", "serving", "lineage", "release", "report",
    "benchmarks", "commands", "cli",
)  # fmt: skip

"""Parts of albef/, each of which may import those before it."""
OF_FLOWS = {
    "commands", "config", "data", "evaluation", "io", "layout", "release", "report", "run_record",
    "runtime", "trackers",
}  # fmt: skip
"""Parts of albef/ that flows may import; pipelines may import all of it."""
FOREIGN = {
    "albef": {"prefect", "dvc", "dvclive"},
    "pipelines": {"prefect", "dvc"},
    "flows": {"torch", "timm", "transformers", "optuna", "onnxruntime", "webdataset"},
}
"""What each package never imports from outside (the curves, of dvclive, are training's)."""


COMMANDS = "flows/cli.py"
"""The commands of a project; some of them are of pipelines. ``albef/cli.py`` imports it by name."""


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def part(module: str) -> str:
    names = module_of(module).split(".")
    return ".".join(names[:2]) if names[0] == "albef" else names[0]


def is_below(path: str, module: str) -> bool:
    here, there = part(path), part(path_of(module) or module)
    if here == there or there == "albef" or here == "albef":  # which imports two names lazily
        return True
    if path == COMMANDS and there == "pipelines":
        return True
    name = there.removeprefix("albef.")
    if name == there:
        return False
    if here in ("pipelines", "flows"):
        return here == "pipelines" or name in OF_FLOWS
    return FLOORS.index(name) < FLOORS.index(here.removeprefix("albef."))


def may_import(path: str, module: str) -> bool:
    top, package = module.split(".")[0], path.split("/")[0]
    if top in FOREIGN[package]:
        return top == "dvclive" and part(path) == "albef.training"
    return top not in FOREIGN or path_of(module) is None or is_below(path, module)


def test_imports_run_one_way() -> None:
    edges = [(path, module) for path in sources() for module in imports(path)]
    refuse(f"{path} imports {module}" for path, module in edges if not may_import(path, module))


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        path: {
            file
            for module in imports(path)
            if (file := path_of(module)) and not file.endswith("__init__.py") and file != path
        }
        for path in sources()
        if not path.endswith("__init__.py")
    }
    graph["albef/cli.py"].add(COMMANDS)
    assert list(TopologicalSorter(graph).static_order())


def test_no_task_imports_a_task_and_training_none_of_them() -> None:
    tasks = {*kinds(), "albef/tasks/pretraining.py"}
    paths = [*kinds(), *files("albef/training/*.py")]
    refuse(f"{path} runs {other}" for path in paths for other in closure(path) & tasks - {path})


def test_what_serves_needs_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "transformers", "prefect", "dvc", "optuna"}
    roots = files(
        "albef/__init__.py", "albef/commands/find.py", "albef/runtime/*.py", "albef/serving/**/*.py"
    )
    refuse(
        f"{file} imports {module}"
        for file in set().union(*map(closure, roots))
        for module in imports(file, lazy=False)
        if module.split(".")[0] in heavy
    )


def test_no_process_of_ours_outlives_its_parent() -> None:
    """A killed parent cannot stop its children, which would keep its locks and cores."""
    for path in sources():
        text = (ROOT / path).read_text()
        if "import subprocess" in text:
            ending = text.count("dying_with_parent(") + text.count("exit_with_parent(")
            assert ending >= text.count("[sys.executable"), path
