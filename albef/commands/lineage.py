"""``albef lineage PATH``: print the chain from an artifact back to the raw source."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from albef.commands.command import find_root
from albef.config import ParamsError, read_preset
from albef.layout import PARAMS, layout_of
from albef.lineage import DIGITS, Project, Step, lineage, render_facts


def main(path: Path, as_json: bool) -> int:
    """Print the chain of an artifact; return 1 if a local file differs from the recorded one."""
    chain = lineage(path, project_around(path))
    if as_json:
        print(TypeAdapter(Step).dump_json(chain, indent=2).decode())
    else:
        print("\n".join(_tree(chain, set())))
    return int(any(step.state == "changed" for step in chain.walk()))


def _tree(step: Step, printed: set[tuple[str, str, str]]) -> Iterator[str]:
    """Yield the lines of a chain as a tree; a step in ``printed`` is not repeated."""
    location = ""
    if step.path and step.what != "file":
        path, cwd = Path(step.path).resolve(), Path.cwd()
        location = f"  {path.relative_to(cwd) if path.is_relative_to(cwd) else path}"
    yield f"{step.what} {step.name}{location}"
    key = (step.what, step.name, step.digest)
    if step.origins and key in printed:
        yield "   as above"
        return
    printed.add(key)
    bar = "│  " if step.origins else "   "
    if step.digest or step.state:
        state = {"missing": "missing locally"}.get(step.state, step.state)
        if step.local_digest:
            state = f"changed: the local one is {step.local_digest[:DIGITS]}"
        yield f"{bar}{step.digest[:DIGITS] or 'no digest recorded'} {state}".rstrip()
    for line in render_facts(step):
        yield bar + line
    for origin in step.origins:
        is_last = origin is step.origins[-1]
        first, *rest = _tree(origin, printed)
        yield ("└─ " if is_last else "├─ ") + first
        for line in rest:
            yield ("   " if is_last else "│  ") + line


def project_around(path: Path) -> Project | None:
    """Return the project that contains a path, with the params file whose artifacts include it.

    Each preset has a separate artifacts folder.

    Raises:
        ParamsError: a params file or preset is not YAML, or does not name the folders.
    """
    root = find_root(path)
    if root is None:
        return None
    projects = list(_projects(root))
    is_in = path.resolve().is_relative_to
    holding = [it for it in projects if is_in(it.layout.root) or is_in(it.layout.paths.models)]
    # products/smoke is inside products, so the deepest folder that holds the path wins.
    return max(holding or projects[:1], key=lambda project: len(project.layout.root.parts))


def _projects(root: Path) -> Iterator[Project]:
    for file in (root / PARAMS, *sorted((root / "presets").glob("*.yaml"))):
        try:
            params = read_preset(file)
            layout = layout_of(params, str(file), root)
        except ParamsError:
            if file.name == PARAMS.name:
                raise
            continue  # A broken preset stops only its own runs.
        yield Project(root, layout, tuple(params.get("tasks") or ()))
