"""A ladder of variations as a table: means and deviations over seeds, and which steps are resolved.

A step is a difference of two rungs, taken seed by seed: two rungs of a seed share data, initial
weights where their shapes allow, and order. It is resolved where the 95 % Student's interval of
these differences does not hold zero.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from albef.config import Section
from albef.evaluation.statistics import Interval, between, spread
from albef.report import metric_names
from albef.report.comparison import difference, interval_words


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
    values: dict[str, Any]
    """What it changes of the preset, by dotted key."""
    earlier: str | None = None
    """A rung before it, whose pre-trained checkpoint lies in ``.albef/earlier``."""


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
        for index, rung in enumerate(self.rungs):
            if rung.earlier and rung.earlier not in names[:index]:
                raise ValueError(f"rung {rung.name}: {rung.earlier} is no rung before it")
        for claim in self.claims:
            for name in (claim.before, claim.after):
                if name not in names:
                    raise ValueError(f"claim {claim.title!r} names {name}, which is no rung")
        return self


Step = tuple[float, Interval | None] | None
"""A difference of two rungs, and its interval over seeds; None where no seed has both."""


@dataclass(frozen=True)
class Table:
    """Results, as far as there are any: by rung, caption noise and seed, the metrics of the
    evaluation by split; ``planned`` is how many there will be."""

    ladder: Ladder
    results: Mapping[tuple[str, float, int], Mapping[str, Any]]
    planned: int

    @property
    def noises(self) -> list[float]:
        """Caption noises, in order."""
        return sorted({noise for _, noise, _ in self.results})

    def by_seed(self, rung: str, noise: float, metric: Metric) -> dict[int, float]:
        """A metric of a rung at each seed."""
        return {
            seed: metrics[metric.split][metric.name]
            for (name, level, seed), metrics in self.results.items()
            if (name, level) == (rung, noise)
        }

    def chance(self, metric: Metric) -> float:
        """What guessing would score; by ITC alone the same."""
        chance = next(iter(self.results.values()))["chance"]
        return float(chance[metric.split][metric_names.plain(metric.name)])

    def step(self, before: str, after: str, noise: float, metric: Metric) -> Step:
        """The difference of two rungs over the seeds that both have."""
        differences = [*self._differences(before, after, noise, metric).values()]
        over_seeds = spread(differences) if differences else None
        return (over_seeds.mean, over_seeds.interval) if over_seeds else None

    def change(self, before: str, after: str, metric: Metric) -> Step:
        """How much larger a step is at the most noise than at the least, over shared seeds."""
        lowest, highest = (
            self._differences(before, after, noise, metric)
            for noise in (self.noises[0], self.noises[-1])
        )
        seeds = lowest.keys() & highest.keys()
        if len(self.noises) < 2 or not seeds:
            return None
        return between({s: lowest[s] for s in seeds}, {s: highest[s] for s in seeds})

    def _differences(
        self, before: str, after: str, noise: float, metric: Metric
    ) -> dict[int, float]:
        old, new = (self.by_seed(rung, noise, metric) for rung in (before, after))
        return {seed: new[seed] - old[seed] for seed in sorted(old.keys() & new.keys())}

    def blocks(self, metric: Metric) -> Iterator[tuple[list[str], list[list[str]]]]:
        """Header and rows of a metric's tables: rungs with mean and step at each noise, and claims
        with their step at each noise and how much larger it is at the most."""
        noises = [f"noise {noise:g}" for noise in self.noises]
        rows, previous = [], ""
        for rung in self.ladder.rungs:
            row = [rung.title]
            for noise in self.noises:
                row.append(_cell([*self.by_seed(rung.name, noise, metric).values()]))
                row.append(format_step(self.step(previous, rung.name, noise, metric)))
            rows.append(row)
            previous = rung.name
        yield ["rung", *(head for noise in noises for head in (noise, "step (95 %)"))], rows
        if self.ladder.claims:
            header, rows = ["what comes in between", *noises], []
            for claim in self.ladder.claims:
                pair = claim.before, claim.after
                steps = [self.step(*pair, noise, metric) for noise in self.noises]
                steps += [self.change(*pair, metric)] if len(noises) > 1 else []
                rows.append([claim.title, *map(format_step, steps)])
            if len(noises) > 1:
                header.append(f"change from noise {self.noises[0]:g} to {self.noises[-1]:g}")
            yield header, rows

    def seeds(self) -> str:
        """Over how many seeds, in words."""
        metric = self.ladder.metrics[0]
        counts = {
            len(self.by_seed(rung.name, noise, metric))
            for rung in self.ladder.rungs
            for noise in self.noises
        }
        return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts)


def format_step(step: Step) -> str:
    """A step for a reader, with a word on whether it is resolved."""
    if step is None:
        return ""
    value, interval = step
    if interval is None:
        return difference(value)
    words = interval_words(value, interval)
    return words if interval.sign == 0 else f"{words} resolved"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    stats = spread(values)
    return f"{stats.mean:.2f}" + ("" if stats.deviation is None else f" ± {stats.deviation:.2f}")


def render_markdown(table: Table) -> str:
    """The tables for a page."""
    parts = []
    if len(table.results) < table.planned:
        parts.append(f"**Not finished: {len(table.results)} of {table.planned} trainings.**")
    for metric in table.ladder.metrics:
        parts.append(
            f"**{metric.title[:1].upper()}{metric.title[1:]}** (percent, mean ± deviation over "
            f"{table.seeds()} seeds; chance {table.chance(metric):.2f}):"
        )
        for header, rows in table.blocks(metric):
            lines = [header, ["---"] * len(header), *rows]
            text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            parts.append(re.sub(r"(?<=\| )([^|]+) resolved(?= \|)", r"**\1**", text))
    return "\n\n".join(parts) + "\n"
