"""Provenance in the report: lineage, and the cost of the stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from albef.layout import Layout
from albef.lineage import CONFIG, Lineage, Project, Step
from albef.run_record import RunRecord
from albef.run_record import read as read_record
from albef.runtime.manifest import NAME as MANIFEST


@dataclass(frozen=True)
class Costs:
    """Cost of the stages, from their run records."""

    recorded: Mapping[str, RunRecord] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """Stages without a record."""

    @property
    def timed(self) -> dict[str, RunRecord]:
        """Return the records that have a duration."""
        return {stage: run for stage, run in self.recorded.items() if run.seconds is not None}

    def all(self, name: str) -> list[float]:
        """Return an attribute of the record of each stage with a duration."""
        return [getattr(record, name) or 0.0 for record in self.timed.values()]

    def machines(self) -> list[dict[str, RunRecord]]:
        """Return the records by stage, grouped by machine and revision."""
        groups: dict[tuple[object, ...], dict[str, RunRecord]] = {}
        for stage, run in self.recorded.items():
            key = (run.machine, run.python, run.git.revision, run.git.clean)
            groups.setdefault(key, {})[stage] = run
        return list(groups.values())

    def versions(self) -> dict[str, str]:
        """Return package versions; several if stages ran with different ones."""
        pairs = dict.fromkeys(p for run in self.recorded.values() for p in run.versions.items())
        names = sorted({name for name, _ in pairs})
        return {name: ", ".join(v for package, v in pairs if package == name) for name in names}


def read_costs(params: Mapping[str, Any], layout: Layout) -> Costs:
    """Return the run records of all stages before the report, in the order of the graph."""
    data, runs = params.get("datasets", {}), params.get("tasks", {})
    stages = [f"{name}@{dataset}" for name in ("ingest", "validate") for dataset in data]
    stages += [f"curate@{dataset}" for dataset in params.get("curate", {})]
    stages += ["pretrain"]
    stages += [f"{name}@{run}" for name in ("search", "finetune", "evaluate") for run in runs]
    stages += [f"export@{run}" for run in params.get("export", {}).get("runs", {})]
    records = {stage: read_record(layout.record(stage)) for stage in stages}
    recorded = {stage: record for stage, record in records.items() if record}
    return Costs(recorded, [stage for stage in stages if stage not in recorded])


def read_chains(project: Project) -> Iterator[Step]:
    """Yield the lineage of each run, from its export or, without one, from its checkpoint."""
    chains = Lineage(project)
    for run in project.runs:
        if (project.layout.export(run) / MANIFEST).is_file():
            yield chains.export(project.layout.export(run))
        elif (project.layout.model(run) / CONFIG).is_file():
            yield chains.checkpoint(run)
