"""The project around a product, where its relatives lie; without one it speaks for itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from albef.config import ParamsError, read_preset, validate
from albef.layout import PARAMS, Layout, Paths
from albef.lineage.code import GRAPH, code_digest
from albef.lineage.step import Record, State, held, read
from albef.lineage.told import Run, held_to


@dataclass(frozen=True)
class Project:
    """A project, seen through one params file.

    Attributes:
        root: of it.
        params: the file, plain.
        paths: its section ``paths``.
    """

    root: Path
    params: Mapping[str, Any]
    paths: Paths

    @cached_property
    def layout(self) -> Layout:
        """Where products lie, by full paths."""
        own = {name: str(self.root / value) for name, value in self.paths.model_dump().items()}
        return Layout(Paths(**own))

    @property
    def folders(self) -> tuple[Path, Path]:
        """Folders of products and of checkpoints."""
        return self.layout.root, Path(self.layout.paths.models)

    def names(self, section: str) -> list[str]:
        """Keys of a section of the params file."""
        return list(self.params.get(section) or ())

    def code(self, stage: str, told: str) -> tuple[str, State] | None:
        """A code digest that a product tells, and whether the code at hand still is that."""
        if not told:
            return None
        return told, held(told, code_digest(self.root, stage, self.params))

    def record(self, stage: str, product: Path, found: str) -> Record | None:
        """The run record of a stage; None where there is none.

        Args:
            stage: its address.
            product: that it made.
            found: digest of the product at hand, or "".
        """
        path = self.layout.record(stage)
        facts = held_to(Run, read(path), path)
        if not facts:
            return None
        inside = product.is_relative_to(self.root)
        name = product.relative_to(self.root) if inside else product
        told = facts.get("made", {}).get(str(name), "")
        own = held(told, found)
        return Record(stage, "" if own == "missing" else own, facts)


def around(path: Path) -> Project | None:
    """The project that a path lies in, through the params file whose products hold it.

    A preset has products of its own; the params file comes first, then presets.

    Raises:
        ParamsError: a params file that is no YAML.
    """
    full = path.resolve()
    for root in (full, *full.parents):
        if (root / PARAMS).is_file() and (root / GRAPH).is_file():
            found = list(_seen(root))
            holding = [p for p in found if any(full.is_relative_to(f) for f in p.folders)]
            # products/smoke lies in products: the deepest folder that holds it is its own
            return max(holding or found[:1], key=lambda p: len(p.layout.root.parts))
    return None


def _seen(root: Path) -> Iterator[Project]:
    for file in (root / PARAMS, *sorted((root / "presets").glob("*.yaml"))):
        params = read_preset(file)
        try:
            paths = validate(Paths, params.get("paths"), where=str(file), key="paths")
        except ParamsError:
            if file.name == PARAMS.name:
                raise
            continue
        yield Project(root, params, paths)
