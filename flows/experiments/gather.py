"""Revisions set side by side: what `albef compare` shows of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from albef.data.shards import ShardError, describe
from albef.evaluation import statistics
from albef.layout import HEADLINE
from albef.report import curves, drift, flips, scores
from albef.report.comparison import (
    Comparison,
    Data,
    Paired,
    SeedRow,
    Side,
    Split,
    Value,
    metrics_of,
)
from albef.report.examples import spread
from albef.report.metrics import flatten
from albef.report.wording import plain
from flows.experiments.revisions import differing_code, opened, subject
from flows.experiments.sides import ELSEWHERE, Sides
from flows.results import COLUMNS


class CompareError(ValueError):
    """What cannot be compared; its text is the sentence to show."""


def gather(
    names: Sequence[str], reference: Path | None, examples: int
) -> tuple[Comparison, list[str]]:
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
    told = curves.read_reference(reference) if reference else {}
    with opened(names) as revisions:
        return _Gathering(Sides(revisions), examples).comparison(told, reference)


def write_curves(name: str, path: Path) -> None:
    """Write the curves of a revision as a reference file.

    Raises:
        CompareError: it has none.
    """
    with opened([name]) as (revision,):
        found = Sides([revision]).curves[0]
    if not found:
        raise CompareError(f"{name} has no curves: nothing was trained there")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(curves.write_reference(found))


class _Gathering:
    """A comparison in the making."""

    def __init__(self, sides: Sides, examples: int) -> None:
        self._sides = sides
        self._examples = examples

    def comparison(
        self, reference: curves.Curves, path: Path | None
    ) -> tuple[Comparison, list[str]]:
        """Everything; the baseline alone may lack metrics where it is held to a reference."""
        metrics = self._sides.metrics(optional=path is not None)
        found = Comparison(
            sides=tuple(self._side(side) for side in range(len(self._sides.revisions))),
            values=tuple(_values([revision.params for revision in self._sides.revisions])),
            splits=tuple(self._splits(metrics)),
            groups=self._sides.groups if self._sides.repeated() else (),
            curves=tuple(self._sides.curves),
            reference=reference,
            reference_name=path.name if path else "",
            deviations=tuple(curves.deviations(reference, self._sides.curves[0])),
        )
        if path is not None and not found.deviations:
            raise CompareError(
                f"{path} and {self._sides.name(0)} have no curve in common: the file has "
                f"{', '.join(reference)}, {self._sides.name(0)} "
                f"{', '.join(self._sides.curves[0]) or 'none'}"
            )
        self._refuse_strangers(found)
        found = replace(found, data=tuple(self._data()), seeds=tuple(_over_seeds(found)))
        problems = self._sides.problems()
        return replace(found, notes=(*problems, *self._sides.notes)), problems

    def _refuse_strangers(self, found: Comparison) -> None:
        for other in range(1, len(self._sides.revisions)):
            alike = any(m.difference(0, other) is not None for s in found.splits for m in s.metrics)
            pairs = [
                {(t, n) for t in c for n in c[t]}
                for c in (self._sides.curves[0], self._sides.curves[other])
            ]
            if not alike and not pairs[0] & pairs[1]:
                raise CompareError(
                    f"{self._sides.name(0)} and {self._sides.name(other)} have nothing in "
                    "common: no metric and no curve is in both"
                )

    def _side(self, side: int) -> Side:
        revision = self._sides.revisions[side]
        return Side(
            name=revision.name,
            commit=(revision.commit or "")[:7],
            subject=subject(revision.commit),
            seeds=revision.seeds,
            against=self._sides.baseline(side),
            code=differing_code(self._sides.revisions[0], revision),
        )

    def _splits(self, metrics: Sequence[Mapping[str, Any]]) -> Iterator[Split]:
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
                split = Split(run, name, metrics_of(numbers, headline))
                for side in range(1, len(self._sides.revisions)):
                    if numbers[side] and numbers[self._sides.baseline(side)]:
                        split = self._paired(split, self._sides.baseline(side), side)
                yield split

    def _paired(self, split: Split, before: int, after: int) -> Split:
        """A split with what two sides differ in example by example, or a note why not."""
        old, new = self._sides.scores(before, split), self._sides.scores(after, split)
        metrics = [metric for metric in old if metric in new]
        if not metrics:
            if all(self._sides.predictions(side, split) is not None for side in (before, after)):
                note = "its predictions are of a kind that is not compared example by example"
                return replace(split, notes=tuple(dict.fromkeys((*split.notes, note))))
            return split
        contents = [self._sides.contents(side, split) for side in (before, after)]
        known = contents if all(c is not None for c in contents) else [None, None]
        for metric in metrics:
            had, has = old[metric], new[metric]
            places, others = scores.shared(had.names(known[0]), has.names(known[1]))
            if not len(places):
                if any({before, after} <= set(group) for group in self._sides.groups):
                    return split  # another seed may well mean other data
                names = f"{self._sides.name(before)} and {self._sides.name(after)}"
                note = f"{names} answered no example in common: their data differ"
                return replace(split, notes=(*split.notes, note))
            # What turned is shown once, by the parts where there are any.
            most = 0 if metric == metrics[0] and len(metrics) > 1 else self._examples
            test = self._test(split, (before, after), (had, has), (places, others), most)
            test = replace(test, part=metric != metrics[0])
            split = replace(split, paired=(*split.paired, test))
        return split

    def _test(
        self,
        split: Split,
        sides: tuple[int, int],
        both: tuple[scores.Scores, scores.Scores],
        shared: tuple[NDArray[np.int64], NDArray[np.int64]],
        most: int,
    ) -> Paired:
        """Two sides on the examples at places that they share, ``most`` shown each way."""
        (before, after), (old, new), (places, others) = sides, both, shared
        differences = new.values[others] - old.values[places]
        units = self._sides.units(before, split, old.table["key"].take(pa.array(places)))
        gained = np.flatnonzero(~old.right[places] & new.right[others])
        lost = np.flatnonzero(old.right[places] & ~new.right[others])
        strata = old.strata[places]
        test = Paired(
            before=before,
            after=after,
            metric=old.metric,
            shared=len(places),
            of=max(len(old.values), len(new.values)),
            difference=float(np.mean([differences[strata == s].mean() for s in set(strata)])),
            interval=statistics.paired_interval(differences, units, strata),
            gained=len(gained),
            lost=len(lost),
            p=statistics.mcnemar(len(gained), len(lost)),
        )
        shown = [
            [(int(places[i]), int(others[i])) for i in spread(part.tolist(), most)]
            for part in (gained, lost)
        ]
        records = self._sides.records(before, split) if any(shown) else None
        try:
            better, worse = (flips.flips(old, new, part, records) for part in shown)
        except ShardError as error:
            self._sides.missing(f"{self._sides.name(before)}: {error}")
            better, worse = (flips.flips(old, new, part, None) for part in shown)
        finally:
            if records:
                records.close()
        return replace(test, better=better, worse=worse)

    def _data(self) -> Iterator[Data]:
        """Every data set that two sides have."""
        for after in range(1, len(self._sides.revisions)):
            before = self._sides.baseline(after)
            had = self._sides.revisions[before].datasets()
            for name in (n for n in self._sides.revisions[after].datasets() if n in had):
                folders = [self._sides.data(side, name) for side in (before, after)]
                if folders == [None, None]:
                    continue  # made on neither side
                if folders[0] is None or folders[1] is None:
                    lacking = before if folders[0] is None else after
                    note = f"not at hand on {self._sides.name(lacking)}"
                    yield Data(name, before, after, note=note)
                elif describe(folders[0])["digest"] == describe(folders[1])["digest"]:
                    yield Data(name, before, after)
                else:
                    indexes = [self._sides.index(side, name) for side in (before, after)]
                    yield Data(name, before, after, drift=drift.compare(*indexes))


def _numbers(section: object) -> Iterator[tuple[str, float]]:
    if isinstance(section, Mapping):
        for name, value in flatten(section):
            if isinstance(value, int | float) and np.isfinite(value):
                yield name, float(value)


def _values(params: Sequence[Mapping[str, Any]]) -> Iterator[Value]:
    flat = [dict(flatten({k: v for k, v in p.items() if k not in ELSEWHERE})) for p in params]
    for key in dict.fromkeys(key for side in flat for key in side):
        found = [plain(side[key]) if key in side else "" for side in flat]
        if len(set(found)) > 1:
            yield Value(key, tuple(found))


def _over_seeds(it: Comparison) -> Iterator[SeedRow]:
    """Each split's primary metric over the seeds of every group."""
    for split in it.splits if it.groups else ():
        metric = split.metrics[0]
        told = [
            {
                it.sides[side].seeds: value
                for side in group
                if (value := metric.values[side]) is not None
            }
            for group in it.groups
        ]
        for place, own in enumerate(told):
            if own:
                row = SeedRow(
                    split.run, split.name, metric.name, place, statistics.spread([*own.values()])
                )
                if place and told[0]:
                    found = statistics.between(told[0], own)
                    row = replace(row, difference=found[0], interval=found[1])
                yield row
