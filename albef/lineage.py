"""From a product back to its raw source: export, checkpoint, search, parents, data sets, files.

A product names what it was made of by digest, and repeats what those tell of themselves. Where a
relative is at hand it is compared and speaks for itself; where it is not, or is another one by
now, the chain goes on with what was repeated. Nothing is run and nothing is changed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from albef.config import ParamsError
from albef.io import file_digest
from albef.layout import Layout
from albef.run_record import RunRecord, read_as
from albef.runtime.manifest import NAME as MANIFEST

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CHOICE, DESCRIBED = "choice.json", "dataset.json"
PRETRAINED = "pretrained"
"""Name of the checkpoint that pre-training makes."""
State = Literal["verified", "changed", "missing", ""]
"""The file at hand has the digest that is known of it; has another; is not here; none is known."""


class LineageError(ValueError):
    """A path that is no product, or a damaged one; its text is the sentence to show."""


class _Schema(BaseModel):
    """What a file of a product tells, as far as a chain reads it."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Source(_Schema):
    name: str = ""
    kind: str = ""
    inputs: dict[str, str] = {}


class _Curated(_Schema):
    of: str = ""
    data: str = ""
    by: str = ""
    weights: str = ""


class _Described(_Schema):
    digest: str = ""
    splits: dict[str, int] = {}
    captions: int = 0
    sources: list[_Source] = []
    licences: list[dict[str, str]] = []
    curated: _Curated | None = None


class _Provenance(_Schema):
    seed: int | None = None
    epoch: int | None = None
    code: str = ""
    dataset: str = ""
    data: str = ""
    described: _Described | None = None
    choice: str = ""
    parent: str = ""
    parent_weights: str = ""
    parent_provenance: "_Provenance | None" = None
    imported: str | None = None
    file: str = ""
    start: dict[str, str] = {}
    checkpoint: str = ""
    export_code: str = ""


class _Config(_Schema):
    kind: str = ""
    values: dict[str, Any] = {}
    provenance: _Provenance = _Provenance()


class _Manifest(_Schema):
    run: str = ""
    kind: str = ""
    files: dict[str, str] = {}
    precisions: list[str] = []
    model: dict[str, Any] = {}
    provenance: _Provenance = _Provenance()


class _Validation(_Schema):
    digest: str = ""
    passed: bool = False
    checks: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Step:
    """A product or source: what it is, as ``checkpoint``, its name, and what it was made of.

    Attributes:
        path: where it lies, or should; "" where that is not known.
        digest: SHA-256 that is known of it, or of what is at hand; "" where neither is.
        state: of the file at hand, whose digest is ``at_hand`` where that is another one.
        facts: what it tells of itself.
        code: digest of the code that made it, and whether that at hand is the same.
        record: of the run that made it, or of another run of that stage.
        recorded: whether the record names the file at hand; "" where it names none.
    """

    what: str
    name: str
    path: str = ""
    digest: str = ""
    state: State = ""
    at_hand: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[str, State] | None = None
    record: RunRecord | None = None
    recorded: State = ""
    origins: tuple["Step", ...] = ()

    def walk(self) -> Iterator["Step"]:
        """This step and all before it."""
        yield self
        for origin in self.origins:
            yield from origin.walk()


@dataclass(frozen=True)
class Project:
    """What is known of the project around a product, where its relatives lie.

    Attributes:
        root: what run records name their products from.
        layout: of one of its params files.
        runs: keys of ``tasks``.
        code: digest of the code of a stage as it is at hand, by address; "" where it is not known.
    """

    root: Path
    layout: Layout
    runs: Sequence[str]
    code: Callable[[str], str]


def compare(expected: str, at_hand: str) -> State:
    """How a digest that is known compares with the one at hand, "" being none."""
    if not at_hand:
        return "missing"
    if not expected:
        return ""
    return "verified" if expected == at_hand else "changed"


def _digest_at(path: Path) -> str:
    """SHA-256 of a file, which its relatives name again and again; "" where there is none."""
    if not path.is_file():
        return ""
    state = path.stat()
    return _digest(path.resolve(), state.st_mtime_ns, state.st_size)


_digest = cache(lambda path, *state: file_digest(path))


def lineage(path: Path, project: Project | None = None) -> Step:
    """The chain of a product: of an export, checkpoint, data set or search, or any file of one; of
    a project also of metrics, predictions, curves, a verdict, the report or a run record.

    Raises:
        LineageError: nothing is there, or it is no product.
        ValueError: a file of a product is damaged.
    """
    if not path.exists():
        raise LineageError(f"{path} is not here: give the path of a product, or `dvc pull` it")
    chain = _by_content(path, project) or (_by_layout(path, project) if project else None)
    if chain is None:
        raise LineageError(
            f"{path} is no product: neither an export ({MANIFEST}), a checkpoint ({CONFIG} and "
            f"{WEIGHTS}) or a data set ({DESCRIBED}), nor anything that a stage of a project makes"
        )
    return chain


def _by_content(path: Path, project: Project | None) -> Step | None:
    """The chain of a folder that tells itself what it is, or of a file in it."""
    for folder in (path, *path.resolve().parents):
        full = folder.resolve()
        if project and full == project.root:
            break
        if (folder / MANIFEST).is_file():
            return of_export(folder, project)
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            models = Path(project.layout.paths.models).resolve() if project else full.parent
            is_inside = models in full.parents
            name = full.relative_to(models).as_posix() if is_inside else full.name
            return of_checkpoint(name, project, folder=folder)
        if (folder / DESCRIBED).is_file():
            return _of_data(full.name, project, folder=folder)
        if (folder / CHOICE).is_file():
            return _of_search(full.name, project, folder=folder)
    return None


def _by_layout(path: Path, project: Project) -> Step | None:
    """The chain of what the layout of a project has at a path."""
    full, layout = path.resolve(), project.layout
    if full == layout.report() or full.parent == layout.cards():
        is_report = full == layout.report()
        product_type, runs = ("report", project.runs) if is_report else ("model card", [full.stem])
        origins = _of_runs(runs, project)
        return _step(product_type, full.name, full, project, "report", state="", origins=origins)
    for name in dict.fromkeys(n for part in (full, *full.parents) for n in (part.name, part.stem)):
        if full in (layout.metrics(name), layout.predictions(name), layout.behaviour(name)):
            return _of_evaluation(name, project, full)
        for locate, (product_type, stage, origin) in _EXTRAS.items():
            if full.is_relative_to(locate(layout, name)):
                address = f"{stage}@{name}" if stage else ""
                chains = [origin(name, project)]
                return _step(product_type, name, full, project, address, state="", origins=chains)
        if full == layout.record(name):
            return _of_record(name, project)
    return None


def _of_runs(runs: Sequence[str], project: Project) -> Iterator[Step]:
    """The metrics and the export of each run that has them."""
    for run in runs:
        if (path := project.layout.metrics(run)).is_file():
            yield _of_evaluation(run, project, path)
        if (project.layout.export(run) / MANIFEST).is_file():
            yield of_export(project.layout.export(run), project)


def _of_record(address: str, project: Project) -> Step | None:
    """The chain of what the stage of a run record made."""
    stage, _, key = address.partition("@")
    layout = project.layout
    products = {
        "ingest": layout.data(key),
        "validate": layout.verdict(key),
        "curate": layout.data(key),
        "pretrain": layout.model(PRETRAINED),
        "search": layout.search(key),
        "finetune": layout.model(key),
        "evaluate": layout.metrics(key),
        "export": layout.export(key),
        "report": layout.report(),
    }
    return lineage(products[stage], project) if stage in products else None


_PRODUCTS: Mapping[str, tuple[Callable[[Layout, str], Path], str]] = {
    "export": (Layout.export, MANIFEST),
    "checkpoint": (Layout.model, WEIGHTS),
    "search": (Layout.search, CHOICE),
    "data set": (Layout.data, DESCRIBED),
}
"""The folder where a project keeps a product, and the file in it whose digest names it."""


def _product_folder(product_type: str, name: str, project: Project | None) -> Path | None:
    return _PRODUCTS[product_type][0](project.layout, name) if project else None


def _step(
    product_type: str,
    name: str,
    path: Path | None,
    project: Project | None,
    stage: str,
    *,
    digest: str = "",
    at_hand: str | None = None,
    state: State | None = None,
    facts: Mapping[str, Any] | None = None,
    code: str = "",
    origins: Iterable[Step] = (),
) -> Step:
    """A step, held against what is at hand and against the record of the stage that made it.

    Args:
        path: where it lies; None where that is not known.
        stage: address of what made it; "" where no record is asked for.
        digest: as its child tells; ``at_hand`` is compared with it, or if None that of the file.
    """
    locate, file = _PRODUCTS.get(product_type, (None, ""))
    actual_digest = _digest_at(path / file) if path else ""
    at_hand = actual_digest if at_hand is None else at_hand
    state = compare(digest, at_hand) if state is None else state
    recorded: State = ""
    record = None
    if project and path and stage and (path / file).exists():
        record = read_as(RunRecord, project.layout.record(stage))
        product = (locate(project.layout, name) if locate else path) / file
        if product.is_relative_to(project.root):
            product = product.relative_to(project.root)
        if record and actual_digest:
            recorded = compare(record.made.get(str(product), ""), actual_digest)
    return Step(
        product_type,
        name,
        str(path or ""),
        digest or at_hand,
        state or ("verified" if recorded == "verified" else ""),
        at_hand if state == "changed" else "",
        facts or {},
        (code, compare(code, project.code(stage))) if project and code else None,
        record,
        recorded,
        tuple(origins),
    )


def of_export(folder: Path, project: Project | None) -> Step:
    """The chain of an exported folder, wherever it lies."""
    manifest = read_as(_Manifest, folder / MANIFEST) or _Manifest()
    files: dict[State, list[str]] = {"verified": [], "changed": [], "missing": []}
    for name, expected in manifest.files.items():
        files[compare(expected, _digest_at(folder / name))].append(name)
    run, origin = manifest.run or folder.name, manifest.provenance
    kind = manifest.model.get("kind") or manifest.kind
    return _step(
        "export",
        run,
        folder,
        project,
        f"export@{run}",
        # precisions that are not deployed may be left out
        state="changed" if files["changed"] else "verified" if files["verified"] else "missing",
        facts={"kind": kind, "precisions": manifest.precisions, "files": files},
        code=origin.export_code,
        origins=[of_checkpoint(run, project, digest=origin.checkpoint, fallback=origin)],
    )


def of_checkpoint(
    name: str,
    project: Project | None,
    *,
    folder: Path | None = None,
    digest: str = "",
    fallback: _Provenance | None = None,
    descendants: tuple[str, ...] = (),
) -> Step:
    """The chain of a checkpoint, which lies in ``folder`` or where the project keeps it.

    Args:
        digest, fallback: of its weights, and its provenance, as its child tells.
        descendants: checkpoints that came of it.

    Raises:
        LineageError: it came of itself.
    """
    if name in descendants:
        raise LineageError(f"checkpoint {name} tells that it comes from itself: make it again")
    folder = folder or _product_folder("checkpoint", name, project)
    config = read_as(_Config, folder / CONFIG) if folder else None
    if folder and compare(digest, _digest_at(folder / WEIGHTS)) not in ("verified", ""):
        config = None  # of another one
    origin = (config.provenance if config else fallback) or _Provenance()
    facts = origin.model_dump(include={"seed", "epoch"}, exclude_unset=True)
    if config:
        facts |= {"kind": config.kind, "values": config.values}
    run = name.split("/")[0]
    stage = "pretrain" if run == PRETRAINED else f"finetune@{run}"
    return _step(
        "checkpoint",
        name,
        folder,
        project,
        "" if origin.imported is not None else stage,
        digest=digest,
        facts=facts,
        code=origin.code,
        origins=_of_training(origin, project, (*descendants, name)),
    )


def _of_training(
    origin: _Provenance, project: Project | None, descendants: tuple[str, ...]
) -> Iterator[Step]:
    """What the last of ``descendants`` was made of."""
    if origin.choice:
        yield _of_search(descendants[-1].split("/")[0], project, digest=origin.choice)
    if origin.parent:
        yield of_checkpoint(
            origin.parent,
            project,
            digest=origin.parent_weights,
            fallback=origin.parent_provenance,
            descendants=descendants,
        )
    if origin.imported is not None:
        yield Step("file", origin.imported, digest=origin.file, state="missing")
    for part, digest in origin.start.items():
        yield Step(f"{part} weights", "taken as a start", digest=digest)
    if origin.dataset:
        yield _of_data(origin.dataset, project, digest=origin.data, fallback=origin.described)


def _of_search(
    run: str, project: Project | None, *, folder: Path | None = None, digest: str = ""
) -> Step:
    """What the search of a run chose."""
    folder = folder or _product_folder("search", run, project)
    choice = read_as(_Schema, folder / CHOICE) if folder else None
    facts = {"choice": choice.model_extra} if choice else {}
    return _step("search", run, folder, project, f"search@{run}", digest=digest, facts=facts)


def _of_data(
    name: str,
    project: Project | None,
    *,
    folder: Path | None = None,
    digest: str = "",
    fallback: _Described | None = None,
) -> Step:
    """The chain of a data set: its index is read and its digest made again.

    ``digest`` and ``fallback`` are what its child tells of it.
    """
    folder, at_hand = folder or _product_folder("data set", name, project), ""
    described = read_as(_Described, folder / DESCRIBED) if folder else None
    if folder and described:
        from albef.data.shards import index_digest  # pyarrow, which serving lacks

        at_hand = index_digest(folder)
        digest = digest or described.digest
    dataset = (described if compare(digest, at_hand) == "verified" else fallback) or _Described()
    facts = dataset.model_dump(include={"splits", "captions", "licences"}, exclude_unset=True)
    if project and at_hand:
        facts["validation"] = _verdict(project, name, digest)
    if dataset.curated:
        stage, origins = "curate", _of_view(dataset.curated, project)
    else:
        stage, origins = "ingest", _of_sources(dataset.sources, project.root if project else Path())
    return _step(
        "data set",
        name,
        folder,
        project,
        f"{stage}@{name}",
        digest=digest,
        at_hand=at_hand,
        facts=facts,
        origins=origins,
    )


def _of_view(view: _Curated, project: Project | None) -> Iterator[Step]:
    """What a view of a data set was made of: the data set, and the checkpoint that scored its
    captions or wrote some."""
    yield _of_data(view.of, project, digest=view.data)
    folder = project.root / view.by if project else None
    yield of_checkpoint(view.by, project, folder=folder, digest=view.weights)


def _verdict(project: Project, name: str, digest: str) -> str:
    """What validation says of the very data."""
    result = read_as(_Validation, project.layout.validation(name) / "result.json")
    if result is None:
        return "not validated"
    if result.digest != digest:
        return "validated as other data"
    passed = sum(bool(check.get("passed")) for check in result.checks)
    word = "valid" if result.passed else "refused"
    return f"{word}, {passed} of {len(result.checks)} expectations met"


def _of_sources(sources: Sequence[_Source], root: Path) -> Iterator[Step]:
    from albef.builtin import openmoji  # Pillow's, which only these sources need

    try:
        artwork = openmoji.inputs()
    except ParamsError:  # the artwork is not at hand
        artwork = {}
    for source in sources:
        files = [
            Step("file", name, str(path), expected, compare(expected, _digest_at(path)))
            for name, expected in source.inputs.items()
            for path in (artwork.get(name, root / name),)
        ]
        facts = source.model_dump(exclude={"name", "inputs"}, exclude_unset=True)
        yield Step("source", source.name, facts=facts, origins=tuple(files))


def _of_evaluation(run: str, project: Project, path: Path) -> Step:
    """The chain of the metrics, predictions or behaviour tests of a run."""
    origin = _read_predictions(project.layout.predictions(run))
    origins = [of_checkpoint(run, project, digest=origin.checkpoint)]
    if origin.dataset:
        origins.append(_of_data(origin.dataset, project, digest=origin.data))
    return _step(
        "metrics" if path.suffix == ".json" else "predictions",
        run,
        path,
        project,
        f"evaluate@{run}",
        state="",
        code=origin.code,
        facts=origin.model_dump(include={"seed"}, exclude_unset=True),
        origins=origins,
    )


def _read_predictions(path: Path) -> _Provenance:
    """What a table of predictions tells of its origin; nothing where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return _Provenance()
    try:
        metadata = pq.read_schema(path).metadata or {}
        return _Provenance.model_validate_json(metadata.get(b"albef", b"{}"))
    except (pa.ArrowException, ValidationError) as error:
        raise LineageError(f"{path} is damaged ({error}): make it again") from None


_EXTRAS: Mapping[Callable[[Layout, str], Path], tuple[str, str, Callable[[str, Project], Step]]] = {
    Layout.export_metrics: (
        "export metrics",
        "export",
        lambda run, project: of_export(project.layout.export(run), project),
    ),
    Layout.curves: ("curves", "", of_checkpoint),
    Layout.log: ("log", "", of_checkpoint),
    Layout.quarantine: ("quarantine", "", _of_data),
    Layout.verdict: ("verdict", "validate", _of_data),
    Layout.validation: ("validation", "validate", _of_data),
}
"""What a stage leaves beside another product, by where it lies: what it is, the stage, or "" where
no record is asked for, and that product's chain."""
_DIGITS = 12  # of a digest for a reader
_SHOWN_VALUES = ("epochs", "lr", "global_batch_size", "precision")


def to_json(step: Step) -> str:
    """A chain as JSON: every digest whole, every value."""
    return TypeAdapter(Step).dump_json(step, indent=2).decode()


def statement(export: Path, version: str, commit: str) -> dict[str, Any]:
    """The chain of an exported folder as an in-toto statement with SLSA's provenance, version 1.

    It is a function of the folder and the arguments alone, wherever that lies; no level of SLSA is
    claimed. Digests in it that are not of a file are those of what they name, as of a data set.

    Args:
        version: under which it is released.
        commit: of the code, the values and dvc.lock.
    """
    chain = of_export(export, None)
    files = (read_as(_Manifest, export / MANIFEST) or _Manifest()).files
    dependencies = {
        (step.what, step.name, step.digest): {
            "name": f"{step.what} {step.name}",
            "digest": {"sha256": step.digest},
            "annotations": {k: v for k, v in step.facts.items() if k != "values"},
        }
        for step in chain.walk()
        if step is not chain and step.digest
    }
    subject = {MANIFEST: _digest_at(export / MANIFEST), **dict(sorted(files.items()))}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": n, "digest": {"sha256": digest}} for n, digest in subject.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:albef:export",
                "externalParameters": {"run": chain.name, "version": version, "commit": commit},
                "resolvedDependencies": [
                    {"name": "git commit", "digest": {"gitCommit": commit}},
                    *dependencies.values(),
                ],
            },
            "runDetails": {"builder": {"id": "urn:albef:pipeline"}},
        },
    }


def render(step: Step, base: Path) -> str:
    """A chain as a tree, with paths as seen from a folder; nothing is written twice."""
    return "\n".join(_tree(step, base, set()))


def _tree(step: Step, base: Path, printed: set[tuple[str, str, str]]) -> Iterator[str]:
    location = ""
    if step.path and step.what != "file":
        full = Path(step.path).resolve()
        location = f"  {full.relative_to(base) if full.is_relative_to(base) else full}"
    yield f"{step.what} {step.name}{location}"
    key = (step.what, step.name, step.digest)
    if step.origins and key in printed:
        yield "   as above"
        return
    printed.add(key)
    bar = "│  " if step.origins else "   "
    if step.digest or step.state:
        words = {"missing": "missing: not here to compare with"}.get(step.state, step.state)
        if step.at_hand:
            words = f"changed: the one at hand is {step.at_hand[:_DIGITS]}"
        yield f"{bar}{step.digest[:_DIGITS] or 'no digest known'} {words}".rstrip()
    for line in render_facts(step):
        yield bar + line
    for number, origin in enumerate(step.origins, 1):
        is_last = number == len(step.origins)
        first, *rest = _tree(origin, base, printed)
        yield ("└─ " if is_last else "├─ ") + first
        for line in rest:
            yield ("   " if is_last else "│  ") + line


def render_facts(step: Step) -> Iterator[str]:
    """What a step tells beside its digest, a line each."""
    facts = step.facts
    match step.what:
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
            settings |= {name: facts[name] for name in ("seed", "epoch") if name in facts}
            if settings:
                yield _pairs(settings)
        case "search":
            if "choice" in facts:
                yield f"chosen: {_pairs(facts['choice'])}" if facts["choice"] else "no ranges"
        case "data set":
            if "splits" in facts:
                splits = ", ".join(f"{count:,} {name}" for name, count in facts["splits"].items())
                yield f"{splits}; {facts.get('captions', 0):,} captions"
            if "validation" in facts:
                yield str(facts["validation"])
            for licence in facts.get("licences", []):
                yield f"licence of {licence.get('what')}: {licence.get('licence')}"
        case _:
            if facts:
                yield _pairs(facts)
    if step.code:
        digest, state = step.code
        words = {"verified": "as at hand", "changed": "the code at hand is another"}
        yield f"code {digest[:_DIGITS]} {words.get(state, 'not here to compare with')}"
    if step.record:
        yield from _render_record(step.record, step.recorded)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + _pairs(value) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _render_record(record: RunRecord, recorded: State) -> Iterator[str]:
    if recorded == "changed":
        yield f"the run record of {record.stage} is that of another one"
        return
    costs = [f"{record.seconds:,} s"] if record.seconds is not None else []
    hours = {"core": record.core_hours, "gpu": record.gpu_hours}
    costs += [f"{value:.3g} {name} hours" for name, value in hours.items() if value]
    words = ", ".join([record.stage, record.started, *costs])
    yield words if recorded else f"{words}; the record does not name its product"
    revision = record.git.revision[:_DIGITS]
    environment = (
        record.machine,
        record.python and f"Python {record.python}",
        f"git {revision}" if revision else "outside git",
        {True: "clean", False: "with uncommitted changes", None: ""}[record.git.clean],
    )
    yield ", ".join(filter(None, environment))
