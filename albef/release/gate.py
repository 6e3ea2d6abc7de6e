"""Gate before production: limits for a new export relative to the released one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from albef.config import Section

_PRECISIONS = "export.runs.RUN.precisions"


class ReleaseConfig(Section):
    """Limits for an export. Most are relative to the released export, measured at the same time."""

    max_drop: Annotated[float, Field(ge=0)] = 0.5
    """Largest loss of the primary metric of a precision against the released export, in points."""
    max_slower: Annotated[float, Field(gt=0)] = 1.3
    """Largest duration of a call, as a multiple of the released export's."""
    max_larger: Annotated[float, Field(gt=0)] = 1.1
    """Largest size of the graphs of a precision, as a multiple of the released export's."""
    max_int8_loss: Annotated[float, Field(ge=0)] = 2.0
    """Largest loss of the primary metric of int8 against float32, in points."""
    max_behaviour_drop: Annotated[float, Field(ge=0)] = 5.0
    """Largest drop of a behaviour test's pass rate against the released export, in points."""
    max_batch_effect: Annotated[float, Field(ge=0)] = 1e-3
    """Largest change of a probability or feature value caused by the other items of its batch."""
    max_contamination: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest share of test records with an image that the run, or the model it started from, was
    trained on. From 0 to 1."""


@dataclass(frozen=True)
class Figures:
    """Measurements of one precision of an export.

    Attributes:
        metrics: metrics of the test split.
        ms: median milliseconds of a call by batch size.
        bytes: size of its graphs in bytes.
        behaviour: percent of cases that pass, by behaviour test.
        batch_effect: largest change of a number in an answer with the other items of its batch.
    """

    metrics: Mapping[str, float]
    ms: Mapping[int, float]
    bytes: int
    behaviour: Mapping[str, float] = field(default_factory=dict)
    batch_effect: float = 0.0

    def judged(self, primary: str) -> dict[tuple[str, str], float]:
        """Return the values to compare with the released export, by their name and limit."""
        tests, times = self.behaviour.items(), self.ms.items()
        return {
            (primary, "max_drop"): self.metrics[primary],
            **{(f"behaviour test {test}", "max_behaviour_drop"): rate for test, rate in tests},
            **{(f"ms, batch {batch}", "max_slower"): ms for batch, ms in times},
            ("MB", "max_larger"): self.bytes / 1e6,
        }


class Row(NamedTuple):
    """Row of the comparison as text; "" if a cell does not apply.

    ``allowed`` is the largest change for the worse that passes. ``refused`` is the error message if
    the value does not pass.
    """

    what: str
    precision: str
    released: str
    new: str
    change: str = ""
    allowed: str = ""
    refused: str = ""


def judge(
    config: ReleaseConfig, primary: str, new: Mapping[str, Figures], released: Mapping[str, Figures]
) -> Iterator[Row]:
    """Yield rows that compare an export with the gate and, by precision, with the released one.

    ``primary`` names the metric that counts. If nothing is released yet, only two limits apply: the
    loss of int8, and the change of answers with the rest of their batch.
    """
    for name, figures in new.items():
        before = released.get(name)
        released_values = before.judged(primary) if before else {}
        for (subject, key), value in figures.judged(primary).items():
            old_value = released_values.get((subject, key))
            yield _row(subject, name, value, old_value, key, getattr(config, key))
        yield _batch_effect(name, figures.batch_effect, before, config.max_batch_effect)
    for name in (name for name in released if name not in new):
        refused = f"{name} is missing, but the released export has it; add it to {_PRECISIONS}"
        yield Row("precision", name, "present", "missing", refused=refused)
    if (loss := int8_loss(new, primary)) is not None:
        before_loss, cap = int8_loss(released, primary), config.max_int8_loss
        was = "" if before_loss is None else f"{before_loss:.2f}"
        change = "" if before_loss is None else f"{loss - before_loss:+.2f}"
        refused = f"int8 loses {loss:.2f} points of {primary}, more than release.max_int8_loss"
        refused = "" if loss <= cap else f"{refused} {cap:g}"
        allowed = f"{cap:g} in all"
        yield Row(f"{primary} lost", "int8", was, f"{loss:.2f}", change, allowed, refused)


def _batch_effect(name: str, value: float, before: Figures | None, cap: float) -> Row:
    was = "" if before is None else f"{before.batch_effect:.1e}"
    refused = (
        f"{name}: an answer changes by {value:.1e} with the rest of its batch, more than "
        f"release.max_batch_effect {cap:g}; remove {name} from {_PRECISIONS}"
    )
    refused = "" if value <= cap else refused  # NaN does not pass.
    return Row("change with batch", name, was, f"{value:.1e}", "", f"{cap:g}", refused)


def contaminated(config: ReleaseConfig, records: int, shared: Mapping[str, Sequence[str]]) -> Row:
    """Return the row on the ``records`` test records whose images are also in training data.

    ``shared`` has the keys of those with an image in the training split of each dataset.
    """
    affected, cap = set().union(*shared.values()), config.max_contamination
    counted = f"{len(affected)} of {records}"
    named = "; ".join(
        f"{name}: {len(ids)}, such as {ids[0]}" for name, ids in shared.items() if ids
    )
    refused = (
        f"{counted} test records have an image that was trained on ({named}), more than "
        f"release.max_contamination {cap:g}; set `screened: true` for these datasets and add the "
        "test dataset to ingest.heldout"
    )
    refused = refused if len(affected) / records > cap else ""
    return Row("test images in training", "", "", counted, "", f"{100 * cap:g} %", refused)


def int8_loss(figures: Mapping[str, Figures], primary: str) -> float | None:
    """Return the points that int8 loses against the best other precision; None without both."""
    full = figures.get("float32") or figures.get("float16")
    if full is None or "int8" not in figures:
        return None
    return full.metrics[primary] - figures["int8"].metrics[primary]


def _row(subject: str, name: str, value: float, before: float | None, key: str, cap: float) -> Row:
    is_loss = key.endswith("drop")
    form = "{:.2f}" if is_loss else "{:.3g}"
    if before is None:
        return Row(subject, name, "", form.format(value))
    was, now = form.format(before), form.format(value)
    if is_loss:
        worse, change, allowed = before - value, f"{value - before:+.2f}", f"-{cap:g}"
        refused = f"{name} loses {worse:.2f} points of {subject} ({now} after {was})"
    else:
        worse = value / before
        change, allowed = f"x {worse:.2f}", f"x {cap:g}"
        refused = f"{name}, {subject}: {now} is {worse:.2f} times the released {was}"
    # NaN does not pass.
    refused = "" if worse <= cap else f"{refused}, more than release.{key} {cap:g}"
    return Row(subject, name, was, now, change, allowed, refused)
