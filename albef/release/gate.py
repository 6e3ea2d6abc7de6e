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
    max_contamination: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the test split's records with a picture that the run, or what it started from, was
    trained on."""


@dataclass(frozen=True)
class Figures:
    """What one precision of an export was measured at.

    Attributes:
        metrics: of the test split, by name.
        ms: median time of a call in milliseconds, by batch.
        bytes: of its graphs.
        behaviour: percent of cases that pass, by behaviour test; empty of a kind without.
    """

    metrics: Mapping[str, float]
    ms: Mapping[int, float]
    bytes: int
    behaviour: Mapping[str, float] = field(default_factory=dict)


class Row(NamedTuple):
    """One thing that is judged, as text.

    Attributes:
        what: is measured.
        precision: of the weights.
        released: its value in the released export, "" where there is none.
        new: its value.
        change: from one to the other.
        allowed: the worst change that passes.
        refused: the sentence, where it does not pass; "" otherwise.
    """

    what: str
    precision: str
    released: str
    new: str
    change: str
    allowed: str
    refused: str = ""


def judge(
    config: ReleaseConfig,
    primary: str,
    new: Mapping[str, Figures],
    released: Mapping[str, Figures],
) -> Iterator[Row]:
    """Hold an export against the gate and, precision by precision, against the released one.

    Args:
        config: the gate.
        primary: name of the metric that counts.
        new: figures by precision.
        released: the same; empty for a first release, which only int8's loss can stop.
    """
    for name in [*new, *(name for name in released if name not in new)]:
        figures, before = new.get(name), released.get(name)
        if figures is None:
            gone = f"{name} is gone, which the released export has: who loads it would fail"
            yield Row("precision", name, "there", "gone", "", "", gone)
            continue
        was = before.metrics[primary] if before else None
        yield _points(primary, name, figures.metrics[primary], was, config, "max_drop")
        for test, rate in figures.behaviour.items():
            was = before.behaviour.get(test) if before else None
            yield _points(f"behaviour test {test}", name, rate, was, config, "max_behaviour_drop")
        for batch, ms in figures.ms.items():
            was = before.ms[batch] if before else None
            yield _ratio(f"ms, batch {batch}", name, ms, was, config, "max_slower")
        was = before.bytes / 1e6 if before else None
        yield _ratio("MB", name, figures.bytes / 1e6, was, config, "max_larger")
    if (lost := int8_loss(new, primary)) is not None:
        earlier, most = int8_loss(released, primary), config.max_int8_loss
        refused = f"int8 loses {lost:.2f} points of {primary}, more than release.max_int8_loss"
        yield Row(
            f"{primary} lost",
            "int8",
            "" if earlier is None else f"{earlier:.2f}",
            f"{lost:.2f}",
            "" if earlier is None else f"{lost - earlier:+.2f}",
            f"{most:g} in all",
            "" if lost <= most else f"{refused} {most:g}",
        )


def contaminated(config: ReleaseConfig, records: int, found: Mapping[str, Sequence[str]]) -> Row:
    """Hold what was trained on and tested with the same pictures against the gate.

    Args:
        config: the gate.
        records: of the test split.
        found: keys of those with a picture that is in the training split of each data set.
    """
    every = set().union(*found.values())
    share, most = len(every) / records, config.max_contamination
    named = "; ".join(f"{len(own)} by {name}, as {own[0]}" for name, own in found.items() if own)
    refused = (
        f"{len(every)} of {records} test records have a picture that was trained on ({named}), "
        f"more than release.max_contamination {most:g}; `screened: true` for that data set and "
        "the test data in ingest.heldout leave them out"
    )
    counted, allowed = f"{len(every)} of {records}", f"{100 * most:g} %"
    refused = refused if share > most else ""
    return Row("tested and trained on", "", "", counted, "", allowed, refused)


def int8_loss(figures: Mapping[str, Figures], primary: str) -> float | None:
    """Points that int8 loses against the best precision there is, if it has both."""
    full = figures.get("float32") or figures.get("float16")
    if full is None or "int8" not in figures:
        return None
    return full.metrics[primary] - figures["int8"].metrics[primary]


def _points(
    what: str, name: str, value: float, before: float | None, config: ReleaseConfig, key: str
) -> Row:
    if before is None:
        return Row(what, name, "", f"{value:.2f}", "", "")
    change, most = value - before, getattr(config, key)
    refused = (
        f"{name} loses {-change:.2f} points of {what} ({value:.2f} after {before:.2f}), more than "
        f"release.{key} {most:g}"
    )
    passed = -change <= most  # NaN is refused
    shown = (f"{before:.2f}", f"{value:.2f}", f"{change:+.2f}", f"-{most:g}")
    return Row(what, name, *shown, "" if passed else refused)


def _ratio(
    what: str, name: str, value: float, before: float | None, config: ReleaseConfig, key: str
) -> Row:
    if before is None:
        return Row(what, name, "", f"{value:.3g}", "", "")
    ratio, most = value / before, getattr(config, key)
    refused = (
        f"{name}, {what}: {value:.3g} is {ratio:.2f} times the released {before:.3g}, more than "
        f"release.{key} {most:g}"
    )
    shown = (f"{before:.3g}", f"{value:.3g}", f"x {ratio:.2f}", f"x {most:g}")
    return Row(what, name, *shown, "" if ratio <= most else refused)
