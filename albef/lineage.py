"""Lineage of an artifact back to its raw source: export, checkpoint, search, datasets, files.

An artifact names its inputs by digest and repeats what they record about themselves. If an input is
local and has that digest, it is read itself. If it is missing or has changed, the chain continues
with the repeated facts. Nothing is run and nothing is changed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from albef.config import ParamsError
from albef.io import file_digest, read_json
from albef.layout import Layout
from albef.run_record import RunRecord
from albef.run_record import read as read_record
from albef.runtime.manifest import NAME as MANIFEST

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CHOICE, DESCRIBED = "choice.json", "dataset.json"
PRETRAINED = "pretrained"
"""Name of the checkpoint that pre-training makes."""
Facts = Mapping[str, Any]
"""Facts that an artifact records about itself."""
State = Literal["verified", "changed", "missing", ""]
"""State of a local file; "changed": it has another digest; "": no digest is recorded."""
DIGITS = 12
"""Number of digits of a digest that are shown to a reader."""
_SHOWN_VALUES = ("epochs", "lr", "global_batch_size", "precision")


class LineageError(ValueError):
    """Error for a path that is not an artifact, or for a malformed artifact."""


@dataclass(frozen=True)
class Step:
    """Artifact or source, its type ``what`` (such as ``checkpoint``), and the steps it came from.

    Field names are the keys of ``albef lineage --json``. ``path`` is the actual or expected path.
    ``digest`` is the recorded SHA-256, else that of the local file; ``local_digest`` is that of a
    changed local file. ``facts`` are what the artifact records about itself, ``code`` is the digest
    of the code that made it, and ``record`` is of the run that made the local file. What is
    unknown is empty.
    """

    what: str
    name: str
    path: str = ""
    digest: str = ""
    state: State = ""
    local_digest: str = ""
    facts: Facts = field(default_factory=dict)
    code: str = ""
    record: RunRecord | None = None
    origins: tuple["Step", ...] = ()

    def walk(self) -> Iterator["Step"]:
        """Yield this step and all before it."""
        yield self
        for origin in self.origins:
            yield from origin.walk()


@dataclass(frozen=True)
class Project:
    """Project of an artifact, which contains its inputs.

    ``layout`` is that of one of its params files, and ``runs`` are the keys of ``tasks``.
    """

    root: Path
    layout: Layout
    runs: Sequence[str]


def _state(recorded: str, local: str) -> State:
    """Compare a recorded digest with the local one; "" stands for a missing one."""
    if not local:
        return "missing"
    if not recorded:
        return ""
    return "verified" if recorded == local else "changed"


def lineage(path: Path, project: Project | None = None) -> Step:
    """Return the chain of an export, checkpoint, dataset or search, or of that which has a file.

    Raises:
        LineageError: the path is missing or not an artifact, or a file of the chain is malformed.
        ValueError: a file of an artifact is not JSON.
    """
    if not path.exists():
        raise LineageError(f"{path} is missing: give the path of an artifact, or `dvc pull` it")
    chains = Lineage(project)
    try:
        step = _find(path.resolve(), chains, project)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LineageError(f"{chains.last_read} is malformed: {error!r}") from None
    if step is None:
        raise LineageError(
            f"{path} is not an artifact: give an export ({MANIFEST}), a checkpoint ({CONFIG} and "
            f"{WEIGHTS}), a dataset ({DESCRIBED}) or a search ({CHOICE})"
        )
    return step


def _find(path: Path, chains: "Lineage", project: Project | None) -> Step | None:
    for folder in (path, *path.parents):
        if project and folder == project.root.resolve():
            break
        if (folder / MANIFEST).is_file():
            return chains.export(folder)
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            models = Path(project.layout.paths.models).resolve() if project else folder.parent
            is_inside = models in folder.parents
            name = folder.relative_to(models).as_posix() if is_inside else folder.name
            return chains.checkpoint(name, folder=folder)
        if (folder / DESCRIBED).is_file():
            return chains.dataset(folder.name, folder=folder)
        if (folder / CHOICE).is_file():
            return chains.search(folder.name, folder=folder)
    return None


class Lineage:
    """Builder of chains, in a project or without one.

    An input has a ``name``, the ``digest`` that an artifact made from it records ("" if none), and
    facts ``about`` it, which that artifact repeats. Its ``folder`` is by default the project's.
    """

    def __init__(self, project: Project | None = None) -> None:
        self._project = project
        self._layout = project.layout if project else None
        self._digests: dict[Path, str] = {}
        self.last_read = Path()

    def export(self, folder: Path) -> Step:
        """Return the chain of an exported folder in any location."""
        manifest = self._read(folder / MANIFEST)
        run, provenance = manifest.get("run") or folder.name, manifest.get("provenance", {})
        files: dict[State, list[str]] = {"verified": [], "changed": [], "missing": []}
        for name, expected in manifest.get("files", {}).items():
            files[_state(expected, self._digest(folder / name))].append(name)
        facts = {
            "kind": manifest.get("model", {}).get("kind") or manifest.get("kind", ""),
            "precisions": manifest.get("precisions", []),
            "files": files,
        }
        step = Step(
            "export",
            run,
            str(folder),
            self._digest(folder / MANIFEST),
            # Precisions that are not deployed may be missing.
            "changed" if files["changed"] else "verified" if files["verified"] else "missing",
            facts=facts,
            code=provenance.get("export_code", ""),
            origins=(self.checkpoint(run, provenance.get("checkpoint", ""), provenance),),
        )
        return self._with_record(step, folder / MANIFEST, f"export@{run}")

    def checkpoint(
        self, name: str, digest: str = "", about: Facts | None = None, folder: Path | None = None
    ) -> Step:
        """Return the chain of a checkpoint; ``about`` is its provenance."""
        run = name.split("/")[0]
        folder = folder or (self._layout.model(name) if self._layout else None)
        weights = folder / WEIGHTS if folder else None
        step = _compared("checkpoint", name, digest, folder, self._digest(weights))
        config = self._read(folder / CONFIG) if folder and step.state in ("verified", "") else None
        origin = config.get("provenance", {}) if config else about or {}
        facts = {key: origin[key] for key in ("seed", "epoch") if key in origin}
        if config:
            facts |= {"kind": config["kind"], "values": config["values"]}
        origins = tuple(self._inputs(run, origin))
        step = replace(step, facts=facts, code=origin.get("code", ""), origins=origins)
        if origin.get("imported") is not None:
            return step  # No stage made it.
        stage = "pretrain" if run == PRETRAINED else f"finetune@{run}"
        return self._with_record(step, weights, stage)

    def _inputs(self, run: str, origin: Facts) -> Iterator[Step]:
        if choice := origin.get("choice"):
            yield self.search(run, choice)
        if name := origin.get("parent"):
            about = origin.get("parent_provenance")
            yield self.checkpoint(name, origin.get("parent_weights", ""), about)
        if (file := origin.get("imported")) is not None:
            yield Step("file", file, digest=origin.get("file", ""), state="missing")
        for part, digest in origin.get("start", {}).items():
            yield Step(f"{part} weights", "taken as a start", digest=digest)
        if name := origin.get("dataset"):
            yield self.dataset(name, origin.get("data", ""), origin.get("described"))

    def search(self, run: str, digest: str = "", folder: Path | None = None) -> Step:
        """Return the choice of a run's search as a step."""
        folder = folder or (self._layout.search(run) if self._layout else None)
        file = folder / CHOICE if folder else None
        step = _compared("search", run, digest, folder, self._digest(file))
        if file and step.state != "missing":
            step = replace(step, facts={"choice": self._read(file)})
        return self._with_record(step, file, f"search@{run}")

    def dataset(
        self, name: str, digest: str = "", about: Facts | None = None, folder: Path | None = None
    ) -> Step:
        """Return the chain of a dataset; ``about`` is its description. Its index is hashed."""
        folder = folder or (self._layout.data(name) if self._layout else None)
        file, local = folder / DESCRIBED if folder else None, ""
        described = self._read(file) if file else None
        if folder and described:
            from albef.data.shards import index_digest  # Serving lacks pyarrow.

            local = index_digest(folder)
            digest = digest or described["digest"]
        # Signed releases contain this type, so it keeps its spelling.
        step = _compared("dataset", name, digest, folder, local)
        about = (described if step.state == "verified" else about) or {}
        facts = {key: about[key] for key in ("splits", "captions", "licences") if key in about}
        if view := about.get("curated"):
            stage, origins = "curate", self._curation(view)
        else:
            stage, origins = "ingest", self._sources(about.get("sources", []))
        step = replace(step, facts=facts, origins=tuple(origins))
        return self._with_record(step, file, f"{stage}@{name}")

    def _curation(self, view: Mapping[str, str]) -> Iterator[Step]:
        """Yield a filtered dataset's base, and the checkpoint that filtered or captioned it."""
        yield self.dataset(view["of"], view["data"])
        folder = self._project.root / view["by"] if self._project else None
        yield self.checkpoint(view["by"], view["weights"], folder=folder)

    def _sources(self, sources: Sequence[Facts]) -> Iterator[Step]:
        from albef.builtin import openmoji  # Only these sources need Pillow.

        try:
            artwork = openmoji.inputs()
        except ParamsError:  # The artwork is not local.
            artwork = {}
        root = self._project.root if self._project else Path()
        for source in sources:
            files = []
            for name, digest in source.get("inputs", {}).items():
                path = artwork.get(name, root / name)
                files.append(_compared("file", name, digest, path, self._digest(path)))
            facts = {k: v for k, v in source.items() if k not in ("name", "inputs")}
            yield Step("source", source["name"], facts=facts, origins=tuple(files))

    def _read(self, path: Path) -> Any:
        self.last_read = path
        return read_json(path)

    def _digest(self, path: Path | None) -> str:
        if path is None or not path.is_file():
            return ""
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def _with_record(self, step: Step, file: Path | None, stage: str) -> Step:
        """Return a step with the record of its stage, if that names the file with its digest."""
        digest = self._digest(file)
        if self._project is None or file is None or not digest:
            return step
        record = read_record(self._project.layout.record(stage))
        for path in (os.path.relpath(file, self._project.root), str(file)):
            if record and record.made.get(path) == digest:
                return replace(step, record=record, state=step.state or "verified")
        return step


def _compared(what: str, name: str, digest: str, path: Path | None, local: str) -> Step:
    state = _state(digest, local)
    changed = local if state == "changed" else ""
    return Step(what, name, str(path or ""), digest or local, state, changed)


def render_facts(step: Step) -> Iterator[str]:
    """Yield lines with what a step records in addition to its digest."""
    yield from filter(None, _render_own_facts(step.what, step.facts))
    if step.code:
        yield f"code {step.code[:DIGITS]}"
    if record := step.record:
        git = f"git {record.git.revision[:DIGITS]}" if record.git.revision else "outside git"
        yield f"{record.stage}, {record.started}, {git}, {record.machine}"


def _render_own_facts(what: str, facts: Facts) -> Iterator[str]:
    match what:
        case "export":
            files = facts["files"]
            count = f"{len(files['verified'])} of {sum(map(len, files.values()))} files verified"
            yield "; ".join(filter(None, [count, ", ".join(facts["precisions"])]))
            for state in ("changed", "missing"):
                if files[state]:
                    yield f"{state}: {', '.join(files[state])}"
        case "checkpoint":
            values = facts.get("values", {})
            settings = {name: values[name] for name in _SHOWN_VALUES if name in values}
            yield _pairs(settings | {k: facts[k] for k in ("seed", "epoch") if k in facts})
        case "search":
            if "choice" in facts:
                yield f"chosen: {_pairs(facts['choice'])}" if facts["choice"] else "no ranges"
        case "dataset":
            if "splits" in facts:
                splits = ", ".join(f"{count:,} {name}" for name, count in facts["splits"].items())
                yield f"{splits}; {facts.get('captions', 0):,} captions"
            for licence in facts.get("licences", []):
                yield f"licence of {licence.get('what')}: {licence.get('licence')}"
        case _:
            yield _pairs(facts)


def _pairs(values: Facts) -> str:
    texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())
