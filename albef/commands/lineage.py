"""``albef lineage PATH``: the chain from a product back to the raw source."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.commands.project import layout_of
from albef.config import ParamsError, read_preset, read_yaml
from albef.layout import PARAMS, Layout
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
    resolved = path.resolve()
    for root in (resolved, *resolved.parents):
        if (root / PARAMS).is_file() and (root / GRAPH).is_file():
            projects = list(_projects(root))
            holding = [project for project in projects if _holds(project.layout, resolved)]
            # products/smoke lies in products: the deepest folder that holds it is its own
            return max(holding or projects[:1], key=lambda project: len(project.layout.root.parts))
    return None


def _holds(layout: Layout, path: Path) -> bool:
    return path.is_relative_to(layout.root) or path.is_relative_to(layout.paths.models)


def _projects(root: Path) -> Iterator[Project]:
    stages = read_yaml(root / GRAPH).get("stages", {})
    for file in (root / PARAMS, *sorted((root / "presets").glob("*.yaml"))):
        params = read_preset(file)
        try:
            layout = layout_of(params, root, file)
        except ParamsError:
            if file.name == PARAMS.name:
                raise
            continue

        def code_at_hand(address: str, params: Mapping[str, Any] = params) -> str:
            return code_digest(code_files(stages, address, params, root), root)

        yield Project(root, layout, tuple(params.get("tasks") or ()), code_at_hand)
