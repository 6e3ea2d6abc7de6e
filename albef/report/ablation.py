"""A ladder of variations as a table: means and deviations over seeds, and which steps are resolved.

A step is a difference of two rungs, taken seed by seed: two rungs of a seed share data, initial
weights where their shapes allow, and order. It is resolved where the 95 % Student's interval of
these differences does not hold zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from albef.config import Section
from albef.evaluation.statistics import Interval, Spread, between, spread
from albef.report.comparison import interval_words


class Metric(Section):
    """A column of results."""

    split: str
    """Of the evaluation."""
    name: str
    """In the metrics file."""
    title: str
    """For a reader."""


class Rung(Section):
    """A set of values."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Part of the names of its experiments."""
    title: str
    """For a reader."""
    values: dict[str, bool | int | float | str | None]
    """What it changes of the preset, by dotted key."""


class Claim(Section):
    """A difference of two rungs that is looked at on its own."""

    title: str
    """What comes in between."""
    before: str
    """Name of a rung."""
    after: str
    """Name of a rung."""


class Ladder(Section):
    """Rungs, each held against the one before it."""

    run: str
    """Which entry of ``tasks`` is evaluated."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """What is shown of it; the first one is primary."""
    rungs: Annotated[tuple[Rung, ...], Field(min_length=2)]
    """In order."""
    claims: tuple[Claim, ...] = ()
    """Larger steps, and how caption noise changes them."""

    @model_validator(mode="after")
    def _consistent(self) -> "Ladder":
        names = [rung.name for rung in self.rungs]
        if len(set(names)) < len(names):
            raise ValueError("two rungs have the same name")
        for claim in self.claims:
            for name in (claim.before, claim.after):
                if name not in names:
                    raise ValueError(f"claim {claim.title!r} names {name}, which is no rung")
        return self


@dataclass(frozen=True)
class Result:
    """One training of one rung; values by place in :attr:`Ladder.metrics`."""

    rung: str
    noise: float
    seed: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """Results, as far as there are any.

    Args:
        ladder: the rungs.
        results: of them.
        wanted: how many there will be.
    """

    ladder: Ladder
    results: Sequence[Result]
    wanted: int

    @property
    def noises(self) -> list[float]:
        """Caption noises, in order."""
        return sorted({result.noise for result in self.results})

    def by_seed(self, rung: str, noise: float, metric: int) -> dict[int, float]:
        """A metric of a rung at each seed."""
        found = (r for r in self.results if (r.rung, r.noise) == (rung, noise))
        return {result.seed: result.values[metric] for result in found}

    def cell(self, rung: str, noise: float, metric: int) -> Spread | None:
        """A metric of a rung over seeds."""
        found = self.by_seed(rung, noise, metric)
        return spread([*found.values()]) if found else None

    def step(
        self, before: str, after: str, noise: float, metric: int
    ) -> tuple[float, Interval | None] | None:
        """The difference of two rungs over the seeds that both have."""
        found = self._differences(before, after, noise, metric)
        told = spread([*found.values()]) if found else None
        return (told.mean, told.interval) if told else None

    def change(self, before: str, after: str, metric: int) -> tuple[float, Interval | None] | None:
        """How much larger a step is at the most noise than at the least, over shared seeds."""
        least, most = (
            self._differences(before, after, noise, metric)
            for noise in (self.noises[0], self.noises[-1])
        )
        seeds = least.keys() & most.keys()
        if len(self.noises) < 2 or not seeds:
            return None
        return between({s: least[s] for s in seeds}, {s: most[s] for s in seeds})

    def _differences(self, before: str, after: str, noise: float, metric: int) -> dict[int, float]:
        old, new = (self.by_seed(rung, noise, metric) for rung in (before, after))
        return {seed: new[seed] - old[seed] for seed in sorted(old.keys() & new.keys())}

    def rungs(self, metric: int) -> Iterator[tuple[str, ...]]:
        """Rows: rung, then mean and step of each noise."""
        last = None
        for rung in self.ladder.rungs:
            row = [rung.title]
            for noise in self.noises:
                row.append(_cell(self.cell(rung.name, noise, metric)))
                row.append(told(self.step(last, rung.name, noise, metric)) if last else "")
            yield tuple(row)
            last = rung.name

    def claims(self, metric: int) -> Iterator[tuple[str, ...]]:
        """Rows: claim, its step at each noise, and how much larger it is at the most noise."""
        for claim in self.ladder.claims:
            steps = [
                told(self.step(claim.before, claim.after, noise, metric)) for noise in self.noises
            ]
            change = told(self.change(claim.before, claim.after, metric))
            yield (claim.title, *steps, *([change] if len(self.noises) > 1 else []))

    def heads(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Headers of :meth:`rungs` and :meth:`claims`."""
        noises = [f"noise {noise:g}" for noise in self.noises]
        more = [f"change from noise {self.noises[0]:g} to {self.noises[-1]:g}"]
        return (
            ("rung", *(head for noise in noises for head in (noise, "step (95 %)"))),
            ("what comes in between", *noises, *(more if len(noises) > 1 else [])),
        )

    def seeds(self) -> str:
        """Over how many seeds, in words."""
        counts = sorted(
            {
                len(self.by_seed(rung.name, noise, 0))
                for rung in self.ladder.rungs
                for noise in self.noises
            }
        )
        return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])


def told(step: tuple[float, Interval | None] | None) -> str:
    """A step for a reader, with a word on whether it is resolved."""
    if step is None:
        return ""
    difference, interval = step
    if interval is None:
        return f"{difference:+.2f}".replace("-", "−")
    words = interval_words(difference, interval)
    return words if interval.sign == 0 else f"{words} resolved"


def _cell(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" + ("" if found.deviation is None else f" ± {found.deviation:.2f}")


def markdown(table: Table, chance: Mapping[int, float]) -> str:
    """The table for a page.

    Args:
        table: the results.
        chance: of each metric, by place.
    """
    parts = []
    if len(table.results) < table.wanted:
        parts.append(f"**Not finished: {len(table.results)} of {table.wanted} trainings.**")
    rungs, claims = table.heads()
    for place, metric in enumerate(table.ladder.metrics):
        parts.append(
            f"**{metric.title[:1].upper()}{metric.title[1:]}** (percent, mean ± deviation over "
            f"{table.seeds()} seeds; chance {chance[place]:.2f}):"
        )
        parts.append(_markdown(rungs, list(table.rungs(place))))
        if table.ladder.claims:
            parts.append(_markdown(claims, list(table.claims(place))))
    return "\n\n".join(parts) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_bold(cell) for cell in line)} |" for line in lines)


def _bold(cell: str) -> str:
    return f"**{cell.removesuffix(' resolved')}**" if cell.endswith(" resolved") else cell
