"""What the stages took, and where and with what they ran, from their run records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from albef.report import figures
from albef.report.metrics import flatten
from albef.report.origins import Cost
from albef.report.wording import duration, memory


@dataclass(frozen=True)
class CostRow:
    """A stage and its bars; ``extra`` are further facts in words."""

    stage: str
    seconds: float
    time: Markup
    mib: float | None
    memory: Markup
    extra: str


@dataclass(frozen=True)
class CostTable:
    """The stages with a run record, and their sums."""

    rows: tuple[CostRow, ...]
    seconds: float
    mib: float
    core_hours: float
    gpu_hours: float


_EXTRA = (
    ("samples_per_second", "{:,.0f} samples/s"),
    ("steps", "{:,} steps"),
    ("precision", "{}"),
    ("trials", "{} trials"),
    ("parameters", "{:,} parameters"),
)


def cost_table(costs: Iterable[Cost]) -> CostTable:
    """The stages that have a record, as rows."""
    known = [(c.stage, c.record) for c in costs if c.record is not None and "seconds" in c.record]
    longest = max((record["seconds"] for _, record in known), default=0.0)
    most = max((record.get("peak_memory_mib") or 0 for _, record in known), default=0.0)
    table = []
    for stage, record in known:
        mib = record.get("peak_memory_mib")
        extra = [text.format(record[key]) for key, text in _EXTRA if record.get(key)]
        seconds = record["seconds"]
        table.append(
            CostRow(
                stage,
                seconds,
                figures.bar(seconds, longest, (), name=f"{stage}: {duration(seconds)}"),
                mib,
                figures.bar(mib or 0, most, (), name=f"{stage}: {memory(mib or 0)}", look="memory"),
                ", ".join(extra),
            )
        )
    hours = (
        sum(record.get(key) or 0.0 for _, record in known) for key in ("core_hours", "gpu_hours")
    )
    return CostTable(tuple(table), sum(row.seconds for row in table), most, *hours)


@dataclass(frozen=True)
class Machine:
    """Where and from which revision some stages ran."""

    machine: str
    python: str
    revision: str
    clean: bool | None
    started: str
    stages: tuple[str, ...]


def machines(costs: Iterable[Cost]) -> list[Machine]:
    """Stages grouped by machine and revision, in order."""
    found: dict[tuple[str, str, str, bool | None], list[tuple[str, str]]] = {}
    for cost in costs:
        if cost.record is not None:
            git = cost.record.get("git") or {}
            key = (
                str(cost.record.get("machine", "unknown machine")),
                str(cost.record.get("python", "")),
                str(git.get("revision", "")),
                git.get("clean"),
            )
            found.setdefault(key, []).append((cost.stage, str(cost.record.get("started", ""))))
    return [
        Machine(
            machine=machine,
            python=python,
            revision=revision,
            clean=clean,
            started=min(start for _, start in stages),
            stages=tuple(stage for stage, _ in stages),
        )
        for (machine, python, revision, clean), stages in found.items()
    ]


def versions(costs: Iterable[Cost]) -> Mapping[str, str]:
    """Versions of packages; several where stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for cost in costs:
        for name, version in flatten((cost.record or {}).get("versions", {})):
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}
