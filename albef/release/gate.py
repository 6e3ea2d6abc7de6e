"""The gate before production: what a new export may cost beside the released one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from albef.config import Section


class ReleaseConfig(Section):
    """What an export may cost; the released one is measured beside it."""

    max_drop: Annotated[float, Field(ge=0)] = 0.5
    """Points of the primary metric that a precision may lose against the released one."""
    max_slower: Annotated[float, Field(gt=0)] = 1.3
    """Times as long as the released one's that a call may take."""
    max_larger: Annotated[float, Field(gt=0)] = 1.1
    """Times as large as the released one's that the graphs of a precision may be."""
    max_int8_loss: Annotated[float, Field(ge=0)] = 2.0
    """Points of the primary metric that int8 may lose against float32."""
    max_behaviour_drop: Annotated[float, Field(ge=0)] = 5.0
    """Points of a behaviour test's pass rate that a precision may lose against the released one."""
    max_company: Annotated[float, Field(ge=0)] = 1e-3
    """Most that a probability, or a number of a feature, may change with what is computed beside
    it."""
    max_contamination: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the test split's records with a picture that the run, or what it started from, was
    trained on."""


@dataclass(frozen=True)
class Figures:
    """What one precision of an export was measured at: metrics of the test split, median
    milliseconds of a call by batch, bytes of its graphs, percent of cases that pass by behaviour
    test, and the most that a number of an answer changes with what is computed beside it."""

    metrics: Mapping[str, float]
    ms: Mapping[int, float]
    bytes: int
    behaviour: Mapping[str, float] = field(default_factory=dict)
    company: float = 0.0

    def judged(self, primary: str) -> dict[tuple[str, str], float]:
        """Return what is held against the released export, by its name and that of the limit."""
        tests, times = self.behaviour.items(), self.ms.items()
        return {
            (primary, "max_drop"): self.metrics[primary],
            **{(f"behaviour test {test}", "max_behaviour_drop"): rate for test, rate in tests},
            **{(f"ms, batch {batch}", "max_slower"): ms for batch, ms in times},
            ("MB", "max_larger"): self.bytes / 1e6,
        }


class Row(NamedTuple):
    """One thing that is judged, as text; "" where there is nothing to say."""

    what: str
    precision: str
    released: str
    new: str
    change: str
    allowed: str
    """The worst change that passes."""
    refused: str = ""
    """The sentence, where it does not pass."""


def judge(
    config: ReleaseConfig,
    primary: str,
    new: Mapping[str, Figures],
    released: Mapping[str, Figures],
) -> Iterator[Row]:
    """Hold an export against the gate and, precision by precision, against the released one.

    ``primary`` names the metric that counts. Where nothing is released yet, only int8's loss, and
    answers that depend on what is computed beside them, can stop it.
    """
    for name in [*new, *(name for name in released if name not in new)]:
        figures, before = new.get(name), released.get(name)
        if figures is None:
            refusal = f"{name} is gone, which the released export has: who loads it would fail"
            yield Row("precision", name, "there", "gone", "", "", refusal)
            continue
        released_values = before.judged(primary) if before else {}
        for (subject, key), value in figures.judged(primary).items():
            released_value = released_values.get((subject, key))
            yield _row(subject, name, value, released_value, key, getattr(config, key))
        yield _company(name, figures.company, before, config.max_company)
    if (loss := int8_loss(new, primary)) is not None:
        earlier, cap = int8_loss(released, primary), config.max_int8_loss
        refused = f"int8 loses {loss:.2f} points of {primary}, more than release.max_int8_loss"
        yield Row(
            f"{primary} lost",
            "int8",
            "" if earlier is None else f"{earlier:.2f}",
            f"{loss:.2f}",
            "" if earlier is None else f"{loss - earlier:+.2f}",
            f"{cap:g} in all",
            "" if loss <= cap else f"{refused} {cap:g}",
        )


def _company(name: str, value: float, before: Figures | None, cap: float) -> Row:
    """What the answers of a precision depend on beside what they are about."""
    refused = (
        f"{name}: an answer changes by {value:.1e} with what is computed beside it, more than "
        f"release.max_company {cap:g}; leave it out of export.runs.RUN.precisions"
    )
    was, passes = "" if before is None else f"{before.company:.1e}", value <= cap  # NaN is refused
    return Row(
        "change with company", name, was, f"{value:.1e}", "", f"{cap:g}", "" if passes else refused
    )


def contaminated(config: ReleaseConfig, records: int, shared: Mapping[str, Sequence[str]]) -> Row:
    """Hold what was trained on and tested with the same pictures against the gate: of a number of
    test ``records``, the keys of those with a picture in the training split of each data set."""
    affected = set().union(*shared.values())
    share, cap = len(affected) / records, config.max_contamination
    named = "; ".join(f"{len(ids)} by {name}, as {ids[0]}" for name, ids in shared.items() if ids)
    refused = (
        f"{len(affected)} of {records} test records have a picture that was trained on ({named}), "
        f"more than release.max_contamination {cap:g}; `screened: true` for that data set and "
        "the test data in ingest.heldout leave them out"
    )
    counted, allowed = f"{len(affected)} of {records}", f"{100 * cap:g} %"
    refused = refused if share > cap else ""
    return Row("tested and trained on", "", "", counted, "", allowed, refused)


def int8_loss(figures: Mapping[str, Figures], primary: str) -> float | None:
    """Points that int8 loses against the best precision there is, if it has both."""
    full = figures.get("float32") or figures.get("float16")
    if full is None or "int8" not in figures:
        return None
    return full.metrics[primary] - figures["int8"].metrics[primary]


def _row(subject: str, name: str, value: float, before: float | None, key: str, cap: float) -> Row:
    """A figure beside the released one: ``cap`` points may be lost, or times as much be taken."""
    is_loss = key.endswith("drop")
    form = "{:.2f}" if is_loss else "{:.3g}"
    if before is None:
        return Row(subject, name, "", form.format(value), "", "")
    was, now = form.format(before), form.format(value)
    if is_loss:
        lost, change, allowed = before - value, f"{value - before:+.2f}", f"-{cap:g}"
        sentence = f"{name} loses {lost:.2f} points of {subject} ({now} after {was})"
    else:
        lost = value / before
        change, allowed = f"x {lost:.2f}", f"x {cap:g}"
        sentence = f"{name}, {subject}: {now} is {lost:.2f} times the released {was}"
    refused = (
        "" if lost <= cap else f"{sentence}, more than release.{key} {cap:g}"
    )  # NaN is refused
    return Row(subject, name, was, now, change, allowed, refused)
