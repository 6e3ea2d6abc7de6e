"""Where models come from on the page: checkpoints, exports, their chains; what the stages took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from albef.io import read_json
from albef.layout import HEADLINE, Layout
from albef.lineage import CONFIG, Lineage, Project, Step
from albef.report.wording import flatten
from albef.run_record import RunRecord
from albef.run_record import read as read_record
from albef.runtime.manifest import NAME as MANIFEST


class Machine(NamedTuple):
    """Where and from which revision some stages ran, the first of them when it ``started``."""

    machine: str
    python: str
    revision: str
    clean: bool | None
    started: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Costs:
    """What the stages took, from their run records; None of a stage without one."""

    records: Mapping[str, RunRecord | None] = field(default_factory=dict)

    @property
    def recorded(self) -> dict[str, RunRecord]:
        """Records by stage."""
        return {stage: record for stage, record in self.records.items() if record is not None}

    @property
    def timed(self) -> dict[str, RunRecord]:
        """Those that tell how long it took."""
        return {stage: run for stage, run in self.recorded.items() if run.seconds is not None}

    @property
    def missing(self) -> list[str]:
        """Stages without a record."""
        return [stage for stage, record in self.records.items() if record is None]

    def all(self, name: str) -> list[float]:
        """The ``seconds``, ``peak_memory_mib``, ``core_hours`` or ``gpu_hours`` of each stage."""
        return [getattr(record, name) or 0.0 for record in self.timed.values()]

    def machines(self) -> list[Machine]:
        """Stages grouped by machine and revision, in order."""
        groups: dict[tuple[str, str, str, bool | None], dict[str, str]] = {}
        for stage, run in self.recorded.items():
            key = (run.machine or "unknown machine", run.python, run.git.revision, run.git.clean)
            groups.setdefault(key, {})[stage] = run.started
        return [Machine(*key, min(times.values()), tuple(times)) for key, times in groups.items()]

    def versions(self) -> dict[str, str]:
        """Versions of packages; several where stages ran with different ones."""
        pairs = dict.fromkeys(p for run in self.recorded.values() for p in run.versions.items())
        names = sorted({name for name, _ in pairs})
        return {name: ", ".join(v for package, v in pairs if package == name) for name in names}


@dataclass(frozen=True)
class Model:
    """A checkpoint: the values of its training and the sizes of the model, by dotted name."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Export:
    """The folder of a run that goes to production: its manifest by dotted name, the metrics of
    torch and of each precision, the bytes of its graphs, and how far its probabilities hold."""

    run: str
    manifest: Mapping[str, Any]
    headline: str = ""
    """The metric that may not drop."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bytes: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    """As :func:`albef.export.calibration.describe` has it."""


def read_costs(params: Mapping[str, Any], layout: Layout) -> Costs:
    """The run records of all stages before the report, in the order of the graph."""
    data, runs = params.get("datasets", {}), params.get("tasks", {})
    stages = [f"{name}@{dataset}" for name in ("ingest", "validate") for dataset in data]
    stages += [f"curate@{view}" for view in params.get("curate", {})]
    stages += ["pretrain"]
    stages += [f"{name}@{run}" for name in ("search", "finetune", "evaluate") for run in runs]
    stages += [f"export@{run}" for run in params.get("export", {}).get("runs", {})]
    return Costs({stage: read_record(layout.record(stage)) for stage in stages})


def read_model(layout: Layout, name: str) -> Model:
    """What a checkpoint tells of itself."""
    config = read_json(layout.model(name) / CONFIG)
    if config is None:
        return Model(name, note=f"There is no checkpoint yet: {layout.model(name)} is missing.")
    values, sizes = (dict(flatten(config.get(key, {}))) for key in ("values", "model"))
    return Model(name, values, sizes)


def read_exports(layout: Layout, runs: list[str]) -> Iterator[Export]:
    """The exports that there are, by their manifests and metrics."""
    for run in runs:
        manifest = read_json(layout.export(run) / MANIFEST)
        if manifest is not None:
            scores = read_json(layout.export_metrics(run)) or {}
            sizes, calibration = scores.pop("bytes", {}), scores.pop("calibration", None)
            torch_scores, metrics = scores.get("torch", {}), read_json(layout.metrics(run)) or {}
            headlines = [*metrics.get(HEADLINE, {}).values(), *torch_scores]
            headline = next((metric for metric in headlines if metric in torch_scores), "")
            yield Export(run, dict(flatten(manifest)), headline, scores, sizes, calibration)


def read_chains(project: Project) -> Iterator[Step]:
    """The chain of each run, from its export or, without one, its checkpoint."""
    chains = Lineage(project)
    for run in project.runs:
        if (project.layout.export(run) / MANIFEST).is_file():
            yield chains.export(project.layout.export(run))
        elif (project.layout.model(run) / CONFIG).is_file():
            yield chains.checkpoint(run)
