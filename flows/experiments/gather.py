"""Revisions set side by side: what `albef compare` shows of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from albef.data.shards import ShardError, describe
from albef.evaluation import statistics
from albef.layout import HEADLINE
from albef.report import comparison as page
from albef.report import curves, drift, flips, scores
from albef.report.pictures import spread
from albef.report.wording import flatten, format_value
from flows.experiments.revisions import (
    SEEDS,
    NotAtHand,
    Revision,
    differing_code,
    opened,
    subject,
)
from flows.experiments.sides import Gaps, Side
from flows.results import COLUMNS

ELSEWHERE = ("runtime", "paths")
"""Sections that no product depends on: speed and places."""


class CompareError(ValueError):
    """What cannot be compared; its text is the sentence to show."""


def gather(
    names: Sequence[str], reference: Path | None, examples: int
) -> tuple[page.Comparison, list[str]]:
    """The comparison, and a sentence for all that should be there and is not.

    Args:
        names: of the revisions, the baseline first.
        reference: a file of reference curves, if any.
        examples: answers shown that turned, each way, of each split.

    Raises:
        ParamsError: an unknown revision.
        NotAtHand: one without metrics.
        CompareError: there is nothing to compare.
        CurveError: the file is no reference.
    """
    if len(names) == 1 and reference is None:
        raise CompareError(
            f"name a second revision to set beside {names[0]}, or a reference with --curve FILE"
        )
    drawn = curves.read_reference(reference) if reference else {}
    with opened(names) as revisions:
        return _Gathering(revisions, examples).comparison(drawn, reference)


def write_curves(name: str, path: Path) -> None:
    """Write the curves of a revision as a reference file.

    Raises:
        CompareError: it has none.
    """
    with opened([name]) as (revision,):
        drawn = Side(revision, Gaps()).curves
    if not drawn:
        raise CompareError(f"{name} has no curves: nothing was trained there")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(curves.write_reference(drawn))


class _Gathering:
    """A comparison in the making."""

    def __init__(self, revisions: Sequence[Revision], examples: int) -> None:
        self._gaps = Gaps()
        self._sides = [Side(revision, self._gaps) for revision in revisions]
        self._examples = examples

    def comparison(
        self, reference: curves.Curves, path: Path | None
    ) -> tuple[page.Comparison, list[str]]:
        """Everything; the baseline alone may lack metrics where it is held to a reference."""
        first = self._sides[0]
        made = page.Comparison(
            sides=tuple(map(self._head, range(len(self._sides)))),
            values=tuple(_values([side.revision.params for side in self._sides])),
            splits=tuple(self._splits(optional=path is not None)),
            groups=self._groups if self._are_repeated() else (),
            curves=tuple(side.curves for side in self._sides),
            reference=reference,
            reference_name=path.name if path else "",
            deviations=tuple(curves.deviations(reference, first.curves)),
        )
        if path is not None and not made.deviations:
            raise CompareError(
                f"{path} and {first.name} have no curve in common: the file has "
                f"{', '.join(reference)}, {first.name} {', '.join(first.curves) or 'none'}"
            )
        self._refuse_strangers(made)
        made = replace(made, data=tuple(self._data()), seeds=tuple(_over_seeds(made)))
        problems = self._gaps.problems()
        return replace(made, notes=(*problems, *self._gaps.notes)), problems

    @cached_property
    def _groups(self) -> tuple[tuple[int, ...], ...]:
        """Sides that differ in their seeds alone, in order; the baseline's first."""
        groups: dict[str, list[int]] = {}
        codes: list[Revision] = []
        for place, side in enumerate(self._sides):
            revision = side.revision
            same = next((i for i, c in enumerate(codes) if not differing_code(c, revision)), None)
            if same is None:
                same = len(codes)
                codes.append(revision)
            kept = {k: v for k, v in revision.params.items() if k not in (*SEEDS, *ELSEWHERE)}
            groups.setdefault(json.dumps([same, kept], sort_keys=True), []).append(place)
        return tuple(map(tuple, groups.values()))

    def _are_repeated(self) -> bool:
        """Whether any group has several seeds."""
        return any(
            len({self._sides[i].revision.seeds for i in group}) > 1 for group in self._groups
        )

    def _baseline(self, place: int) -> int:
        """What a side is held against: of another group the one with its seed, else the first."""
        first = self._groups[0]
        if place in first:
            return 0
        seeds = self._sides[place].revision.seeds
        return next((other for other in first if self._sides[other].revision.seeds == seeds), 0)

    def _refuse_strangers(self, made: page.Comparison) -> None:
        first = self._sides[0]
        for place, other in enumerate(self._sides[1:], 1):
            alike = any(m.difference(0, place) is not None for s in made.splits for m in s.metrics)
            drawn = [{(t, n) for t in s.curves for n in s.curves[t]} for s in (first, other)]
            if not alike and not drawn[0] & drawn[1]:
                raise CompareError(
                    f"{first.name} and {other.name} have nothing in common: no metric and no curve "
                    "is in both"
                )

    def _head(self, place: int) -> page.Side:
        revision = self._sides[place].revision
        return page.Side(
            name=revision.name,
            commit=(revision.commit or "")[:7],
            subject=subject(revision.commit),
            seeds=revision.seeds,
            against=self._baseline(place),
            code=differing_code(self._sides[0].revision, revision),
        )

    def _splits(self, *, optional: bool) -> Iterator[page.Split]:
        metrics = [_metrics(side.revision, optional) for side in self._sides]
        for run in dict.fromkeys(run for side in metrics for run in side):
            sections = [
                {n: v for n, v in side.get(run, {}).items() if n not in COLUMNS} for side in metrics
            ]
            names = sorted({n for s in sections for n in s}, key=lambda n: (n != "test", n))
            for name in names:
                numbers = [dict(_numbers(section.get(name))) for section in sections]
                if not any(numbers):
                    continue
                judged = [s.get(HEADLINE, {}).get(name) for s in sections]
                headline = next(filter(None, judged), None)
                split = page.Split(run, name, page.metrics_of(numbers, headline))
                for place in range(1, len(self._sides)):
                    if numbers[place] and numbers[self._baseline(place)]:
                        split = self._paired(split, self._baseline(place), place)
                yield split

    def _paired(self, split: page.Split, before: int, after: int) -> page.Split:
        """A split with what two sides differ in example by example, or a note why not."""
        sides, where = (self._sides[before], self._sides[after]), (split.run, split.name)
        old, new = (side.scores(*where) for side in sides)
        metrics = [metric for metric in old if metric in new]
        if not metrics:
            if all(side.predictions(*where) is not None for side in sides):
                note = "its predictions are of a kind that is not compared example by example"
                return replace(split, notes=tuple(dict.fromkeys((*split.notes, note))))
            return split
        contents = [side.contents(*where) for side in sides]
        known = contents if all(c is not None for c in contents) else [None, None]
        for metric in metrics:
            had, has = old[metric], new[metric]
            shared = scores.shared(had.names(known[0]), has.names(known[1]))
            if not len(shared[0]):
                if any({before, after} <= set(group) for group in self._groups):
                    return split  # another seed may well mean other data
                names = " and ".join(side.name for side in sides)
                note = f"{names} answered no example in common: their data differ"
                return replace(split, notes=(*split.notes, note))
            # What turned is shown once, by the parts where there are any.
            most = 0 if metric == metrics[0] and len(metrics) > 1 else self._examples
            test = self._test(split, (before, after), (had, has), shared, most)
            test = replace(test, part=metric != metrics[0])
            split = replace(split, paired=(*split.paired, test))
        return split

    def _test(
        self,
        split: page.Split,
        sides: tuple[int, int],
        both: tuple[scores.Scores, scores.Scores],
        shared: tuple[NDArray[np.int64], NDArray[np.int64]],
        most: int,
    ) -> page.Paired:
        """Two sides on the examples at places that they share, ``most`` shown each way."""
        (old, new), (places, others) = both, shared
        before, where = self._sides[sides[0]], (split.run, split.name)
        differences = new.values[others] - old.values[places]
        units = before.units(*where, old.table["key"].take(pa.array(places)))
        gained = np.flatnonzero(~old.right[places] & new.right[others])
        lost = np.flatnonzero(old.right[places] & ~new.right[others])
        strata = old.strata[places]
        chosen = [
            [(int(places[i]), int(others[i])) for i in spread(part.tolist(), most)]
            for part in (gained, lost)
        ]
        records = before.records(*where) if any(chosen) else None
        try:
            better, worse = (flips.flips(old, new, part, records) for part in chosen)
        except ShardError as error:
            self._gaps.add(f"{before.name}: {error}")
            better, worse = (flips.flips(old, new, part, None) for part in chosen)
        finally:
            if records:
                records.close()
        return page.Paired(
            *sides,
            metric=old.metric,
            shared=len(places),
            of=max(len(old.values), len(new.values)),
            difference=float(np.mean([differences[strata == s].mean() for s in set(strata)])),
            interval=statistics.paired_interval(differences, units, strata),
            gained=len(gained),
            lost=len(lost),
            p=statistics.mcnemar(len(gained), len(lost)),
            better=better,
            worse=worse,
        )

    def _data(self) -> Iterator[page.Data]:
        """Every data set that two sides have."""
        for place, after in enumerate(self._sides[1:], 1):
            before = self._sides[self._baseline(place)]
            both = [n for n in after.revision.datasets() if n in before.revision.datasets()]
            for name in both:
                folders = [side.data(name) for side in (before, after)]
                if folders == [None, None]:
                    continue  # made on neither
                data = page.Data(name, self._baseline(place), place)
                if folders[0] is None or folders[1] is None:
                    lacking = before if folders[0] is None else after
                    data = replace(data, note=f"not at hand on {lacking.name}")
                elif describe(folders[0])["digest"] != describe(folders[1])["digest"]:
                    indexes = (before.index(name), after.index(name))
                    data = replace(data, drift=drift.compare(*indexes))
                yield data


def _metrics(revision: Revision, optional: bool) -> dict[str, dict[str, Any]]:
    """The metrics of a revision by run; if ``optional``, it may have none."""
    try:
        return revision.metrics()
    except NotAtHand:
        if not optional:
            raise
        return {}


def _numbers(section: object) -> Iterator[tuple[str, float]]:
    if isinstance(section, Mapping):
        for name, value in flatten(section):
            if isinstance(value, int | float) and np.isfinite(value):
                yield name, float(value)


def _values(params: Sequence[Mapping[str, Any]]) -> Iterator[page.Value]:
    flat = [dict(flatten({k: v for k, v in p.items() if k not in ELSEWHERE})) for p in params]
    for key in dict.fromkeys(key for side in flat for key in side):
        texts = [format_value(side[key]) if key in side else "" for side in flat]
        if len(set(texts)) > 1:
            yield page.Value(key, tuple(texts))


def _over_seeds(it: page.Comparison) -> Iterator[page.SeedRow]:
    """Each split's primary metric over the seeds of every group."""
    for split in it.splits if it.groups else ():
        metric = split.metrics[0]
        by_group = [
            {
                it.sides[side].seeds: value
                for side in group
                if (value := metric.values[side]) is not None
            }
            for group in it.groups
        ]
        for place, by_seed in enumerate(by_group):
            if by_seed:
                over_seeds = statistics.spread([*by_seed.values()])
                row = page.SeedRow(split.run, split.name, metric.name, place, over_seeds)
                if place and by_group[0]:
                    difference, interval = statistics.between(by_group[0], by_seed)
                    row = replace(row, difference=difference, interval=interval)
                yield row
