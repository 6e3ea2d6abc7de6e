"""The chain of a product: export, checkpoint, search, parents, data sets, sources.

A product names what it was made of by digest, and tells what those told of themselves. Where a
relative is at hand it is compared and speaks for itself; where it is not, or is another one by
now, the chain goes on with what was told.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from albef.lineage.data import dataset
from albef.lineage.project import Project
from albef.lineage.step import REMEDY, LineageError, State, Step, digest_at, held, named, read
from albef.lineage.told import Config, Manifest, Provenance, held_to
from albef.runtime.manifest import NAME as MANIFEST

CONFIG, WEIGHTS, CHOICE = "config.json", "model.safetensors", "choice.json"
PRETRAINED = "pretrained"
"""Name of the checkpoint that pre-training makes."""


def export(folder: Path, project: Project | None) -> Step:
    """The chain of an exported folder, wherever it lies.

    Raises:
        LineageError: its manifest is damaged.
    """
    path = folder / MANIFEST
    manifest = held_to(Manifest, read(path), path)
    told, files = manifest.get("provenance", {}), manifest.get("files", {})
    found = {name: held(digest, digest_at(folder / name)) for name, digest in files.items()}
    run, digest = str(manifest.get("run", folder.name)), digest_at(path)
    model = manifest.get("model", {})
    return Step(
        "export",
        run,
        str(folder),
        digest,
        _together(list(found.values())),
        facts={
            "kind": model.get("kind") or manifest.get("kind", ""),
            "precisions": manifest.get("precisions", []),
            "files": {state: [n for n, s in found.items() if s == state] for state in _STATES},
        },
        code=project.code(f"export@{run}", told.get("export_code", "")) if project else None,
        record=project.record(f"export@{run}", project.layout.export(run) / MANIFEST, digest)
        if project
        else None,
        origins=(
            checkpoint(run, project, digest=str(told.get("checkpoint", "")), told=_own(told)),
        ),
    )


_STATES: tuple[State, ...] = ("verified", "changed", "missing")
_EXPORTS = ("checkpoint", "export_code")


def _own(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint itself tells, of what a manifest holds."""
    return {key: value for key, value in told.items() if key not in _EXPORTS}


def _together(states: list[State]) -> State:
    """How the files of an export are: precisions that are not deployed may be left out."""
    if "changed" in states:
        return "changed"
    return "verified" if "verified" in states else "missing"


def checkpoint(
    name: str,
    project: Project | None,
    *,
    folder: Path | None = None,
    digest: str = "",
    told: Mapping[str, Any] | None = None,
    after: tuple[str, ...] = (),
) -> Step:
    """The chain of a checkpoint.

    Args:
        name: as ``init`` names it.
        project: around it.
        folder: where it lies; None looks where the project keeps it.
        digest: of its weights, as its child tells.
        told: its provenance, as its child tells.
        after: checkpoints that came of it.

    Raises:
        LineageError: it came of itself, or a file of it is damaged.
    """
    if name in after:
        raise LineageError(f"checkpoint {name} tells that it comes from itself: {REMEDY}")
    if folder is None and project is not None:
        folder = project.layout.model(name)
    found = digest_at(folder / WEIGHTS) if folder else ""
    state = held(digest, found)
    config = held_to(Config, read(folder / CONFIG), folder / CONFIG) if folder else {}
    same = state in ("verified", "") and config
    own = config.get("provenance", {}) if same else (told or {})
    stage = "pretrain" if name.partition("/")[0] == PRETRAINED else f"finetune@{name.split('/')[0]}"
    imported = "imported" in own
    facts = {key: own[key] for key in ("seed", "epoch") if key in own}
    if same:
        facts |= {"kind": config.get("kind", ""), "values": config.get("values", {})}
    record = None
    if project and found and not imported:
        record = project.record(stage, project.layout.model(name) / WEIGHTS, found)
    return Step(
        "checkpoint",
        name,
        str(folder or ""),
        digest or found,
        state or named(record),
        found if state == "changed" else "",
        facts,
        code=project.code(stage, own.get("code", "")) if project else None,
        record=record,
        origins=tuple(_origins(own, project, (*after, name))),
    )


def _origins(
    own: Mapping[str, Any], project: Project | None, after: tuple[str, ...]
) -> Iterator[Step]:
    """What the last of ``after`` was made of."""
    if choice := own.get("choice"):
        yield search(after[-1].split("/")[0], project, digest=choice)
    if parent := own.get("parent"):
        yield checkpoint(
            parent,
            project,
            digest=own.get("parent_weights", ""),
            told=own.get("parent_provenance", {}),
            after=after,
        )
    if "imported" in own:
        yield Step("file", str(own["imported"]), digest=str(own.get("file", "")), state="missing")
    for part, digest in dict(own.get("start", {})).items():
        yield Step(f"{part} weights", "taken as a start", digest=str(digest))
    if data := own.get("dataset"):
        yield dataset(data, project, digest=own.get("data", ""), told=own.get("described", {}))


def search(
    run: str, project: Project | None, *, folder: Path | None = None, digest: str = ""
) -> Step:
    """What the search of a run chose."""
    if folder is None and project is not None:
        folder = project.layout.search(run)
    path = folder / CHOICE if folder else None
    found = digest_at(path) if path else ""
    state = held(digest, found)
    record = None
    if project and found:
        record = project.record(f"search@{run}", project.layout.search(run) / CHOICE, found)
    return Step(
        "search",
        run,
        str(folder or ""),
        digest or found,
        state or named(record),
        found if state == "changed" else "",
        {"choice": read(path)} if path and found else {},
        record=record,
    )


def evaluated(run: str, project: Project, path: Path) -> Step:
    """The chain of the metrics or predictions of a run."""
    told = _of_predictions(project.layout.predictions(run))
    found = digest_at(path)
    record = project.record(f"evaluate@{run}", path, found)
    origins = [checkpoint(run, project, digest=told.get("checkpoint", ""))]
    if data := told.get("dataset"):
        origins.append(dataset(data, project, digest=told.get("data", "")))
    return Step(
        "metrics" if path.suffix == ".json" else "predictions",
        run,
        str(path),
        found,
        named(record),
        facts={"seed": told["seed"]} if "seed" in told else {},
        code=project.code(f"evaluate@{run}", told.get("code", "")),
        record=record,
        origins=tuple(origins),
    )


def _of_predictions(path: Path) -> dict[str, Any]:
    """What a table of predictions tells of its origin; empty where it tells nothing."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    try:
        told = (pq.read_schema(path).metadata or {}).get(b"albef", b"{}")
    except pa.ArrowException as error:
        raise LineageError(f"{path} is damaged ({error}): {REMEDY}") from None
    return held_to(Provenance, json.loads(told), path)
