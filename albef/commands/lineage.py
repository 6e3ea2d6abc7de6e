"""``albef lineage PATH``: the chain from a product back to the raw source."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.config import ParamsError, read_preset, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths
from albef.lineage import Project, lineage, render, to_json
from albef.run_record import code_digest, code_files

GRAPH = Path("dvc.yaml")


def main(path: Path, as_json: bool) -> int:
    """Print the chain of a product; 1 where a file at hand is another one than is told of."""
    chain = lineage(path, project_around(path))
    print(to_json(chain) if as_json else render(chain, Path.cwd()))
    return int(any(step.state == "changed" for step in chain.walk()))


def project_around(path: Path) -> Project | None:
    """The project that a path lies in, through the params file whose products hold it.

    A preset has products of its own; the params file comes first, then presets.

    Raises:
        ParamsError: a params file that is no YAML.
    """
    full = path.resolve()
    for root in (full, *full.parents):
        if (root / PARAMS).is_file() and (root / GRAPH).is_file():
            projects = list(_projects(root))
            holding = [project for project in projects if _holds(project.layout, full)]
            # products/smoke lies in products: the deepest folder that holds it is its own
            return max(holding or projects[:1], key=lambda it: len(it.layout.root.parts))
    return None


def _holds(layout: Layout, path: Path) -> bool:
    return path.is_relative_to(layout.root) or path.is_relative_to(layout.paths.models)


def _projects(root: Path) -> Iterator[Project]:
    stages = read_yaml(root / GRAPH).get("stages", {})
    base = read_yaml(root / PARAMS)
    paths = validate(Paths, base.get("paths"), where=str(root / PARAMS), key="paths")
    yield _project(root, base, paths, stages)
    for file in sorted((root / "presets").glob("*.yaml")):
        preset = read_preset(file)
        try:
            paths = validate(Paths, preset.get("paths"), where=str(file), key="paths")
        except ParamsError:
            continue
        yield _project(root, preset, paths, stages)


def _project(
    root: Path, params: Mapping[str, Any], paths: Paths, stages: Mapping[str, Any]
) -> Project:
    full = {name: str(root / folder) for name, folder in paths.model_dump().items()}
    return Project(
        root,
        Layout(Paths(**full)),
        tuple(params.get("tasks") or ()),
        lambda address: code_digest(code_files(stages, address, params, root), root),
    )
