"""What a path is, and the chain of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from albef.layout import Layout
from albef.lineage import chain
from albef.lineage.data import DESCRIBED, dataset
from albef.lineage.project import Project, around
from albef.lineage.step import LineageError, Step, digest_at, named
from albef.runtime.manifest import NAME as MANIFEST


def lineage(path: Path) -> Step:
    """The chain of a product.

    Args:
        path: an export, checkpoint, data set, search, or any file of one; or metrics,
            predictions, curves, a verdict, the report or a run record of a project.

    Raises:
        LineageError: nothing is there, or it is no product.
        ParamsError: the project's params file cannot be read.
    """
    if not path.exists():
        raise LineageError(f"{path} is not here: give the path of a product, or `dvc pull` it")
    digest_at.cache_clear()  # a file may have changed since
    project = around(path)
    found = _by_content(path, project) or (_by_place(path, project) if project else None)
    if found is None:
        raise LineageError(
            f"{path} is no product: neither an export ({MANIFEST}), a checkpoint "
            f"({chain.CONFIG} and {chain.WEIGHTS}) or a data set ({DESCRIBED}), nor anything that "
            "a stage of a project makes"
        )
    return found


def _by_content(path: Path, project: Project | None) -> Step | None:
    """The chain of a folder that says itself what it is, or of a file in it."""
    stop = project.root if project else Path(path.anchor)
    for folder in (path, *path.resolve().parents) if path.is_dir() else path.resolve().parents:
        if folder.resolve() == stop:
            break
        if (folder / MANIFEST).is_file():
            return chain.export(folder, project)
        if (folder / chain.CONFIG).is_file() and (folder / chain.WEIGHTS).is_file():
            return chain.checkpoint(_name(folder, project), project, folder=folder)
        if (folder / DESCRIBED).is_file():
            return dataset(folder.resolve().name, project, folder=folder)
        if (folder / chain.CHOICE).is_file():
            return chain.search(folder.resolve().name, project, folder=folder)
    return None


def _name(folder: Path, project: Project | None) -> str:
    """What ``init`` calls a checkpoint."""
    full = folder.resolve()
    if project and full.is_relative_to(models := project.folders[1].resolve()):
        return full.relative_to(models).as_posix()
    return full.name


def _by_place(path: Path, project: Project) -> Step | None:
    """The chain of what the layout of a project says that it is."""
    full, layout = path.resolve(), project.layout
    if full == layout.report():
        return _told("report", full, project, project.names("tasks"))
    if full.parent == layout.cards():
        return _told("model card", full, project, [full.stem])
    for name in dict.fromkeys(n for part in (full, *full.parents) for n in (part.name, part.stem)):
        for of, make in _PLACES.items():
            if full.is_relative_to(of(layout, name)):
                return make(name, project, full)
        if full == layout.record(name):
            return _of_record(name, project)
    return None


def _export_metrics(run: str, project: Project, path: Path) -> Step:
    found = digest_at(path)
    record = project.record(f"export@{run}", path, found)
    origins = [chain.export(project.layout.export(run), project)]
    state = named(record)
    return Step("export metrics", run, str(path), found, state, record=record, origins=(*origins,))


def _beside(stage: str, what: str) -> Callable[[str, Project, Path], Step]:
    """The chain of what a stage leaves beside its main product."""

    def make(name: str, project: Project, path: Path) -> Step:
        found = digest_at(path)
        main = chain.checkpoint if stage == "train" else dataset
        origin = main(name, project)
        record = None
        if stage == "validate":
            record = project.record(f"validate@{name}", path, found)
        return Step(what, name, str(path), found, named(record), record=record,
                    origins=(origin,))  # fmt: skip

    return make


_PLACES: dict[Callable[[Layout, str], Path], Callable[[str, Project, Path], Step]] = {
    Layout.metrics: chain.evaluated,
    Layout.predictions: chain.evaluated,
    Layout.export_metrics: _export_metrics,
    Layout.curves: _beside("train", "curves"),
    Layout.log: _beside("train", "log"),
    Layout.behaviour: chain.evaluated,
    Layout.quarantine: _beside("ingest", "quarantine"),
    Layout.verdict: _beside("validate", "verdict"),
    Layout.validation: _beside("validate", "validation"),
}


def _of_record(address: str, project: Project) -> Step | None:
    """The chain of what the stage of a run record made."""
    stage, _, key = address.partition("@")
    layout = project.layout
    places = {
        "ingest": layout.data(key),
        "validate": layout.verdict(key),
        "pretrain": layout.model(chain.PRETRAINED),
        "search": layout.search(key),
        "finetune": layout.model(key),
        "evaluate": layout.metrics(key),
        "export": layout.export(key),
        "report": layout.report(),
    }
    return lineage(places[stage]) if stage in places else None


def _told(what: str, path: Path, project: Project, runs: list[str]) -> Step:
    """The chain of the report, or of a model card: of what it tells of runs."""
    record = project.record("report", path, digest_at(path))
    return Step(
        what,
        path.name,
        str(path),
        digest_at(path),
        named(record),
        record=record,
        origins=tuple(_shown(project, runs)),
    )


def _shown(project: Project, runs: list[str]) -> Iterator[Step]:
    for run in runs:
        if (path := project.layout.metrics(run)).is_file():
            yield chain.evaluated(run, project, path)
        if (project.layout.export(run) / MANIFEST).is_file():
            yield chain.export(project.layout.export(run), project)
