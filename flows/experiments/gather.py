"""Collection of what `albef compare` shows about revisions."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from albef.config import ParamsError, flatten
from albef.data.shards import describe
from albef.evaluation import statistics
from albef.layout import BASELINES, HEADLINE
from albef.report import comparison as page
from albef.report import flips, metric_names, scores
from albef.report.thumbnails import sample
from albef.report.wording import format_value, numbers
from flows.experiments.revisions import SEEDS, Revision, differing_code, opened
from flows.experiments.sides import Gaps, Side

ELSEWHERE = ("runtime", "paths")
"""Sections that no artifact depends on: speed and locations of files."""


def gather(
    names: Sequence[str], examples: int, *, stepwise: bool = False
) -> tuple[page.Comparison, list[str]]:
    """Return the comparison, and an error message for every expected file that is missing.

    Args:
        names: revisions, the baseline first.
        examples: number of changed answers to show for each direction and split.
        stepwise: compare each group of seeds with the previous group instead of the first.

    Raises:
        ParamsError: a revision is unknown or has no metrics, or there is only one.
    """
    if len(names) == 1:
        raise ParamsError(f"give a second revision to compare with {names[0]}")
    with opened(names) as revisions:
        gathering = _Gathering(revisions, examples, stepwise)
        comparison = gathering.comparison()
        problems = [*gathering.gaps.problems.values()]
    return replace(comparison, notes=(*problems, *gathering.gaps.notes)), problems


class _Gathering:
    def __init__(self, revisions: Sequence[Revision], examples: int, stepwise: bool) -> None:
        self.gaps = Gaps()
        self._sides = [Side(revision, self.gaps) for revision in revisions]
        self._examples, self._stepwise = examples, stepwise

    def comparison(self) -> page.Comparison:
        first = self._sides[0]
        for side in self._sides:
            if not side.metrics:
                raise ParamsError(
                    f"{side.name} has no metrics; `albef run --name EXPERIMENT` evaluates and "
                    "records them"
                )
        seeds = [side.revision.seeds for side in self._sides]
        is_repeated = any(len({seeds[i] for i in group}) > 1 for group in self._groups)
        draft = page.Comparison(
            sides=tuple(
                page.Side(
                    name=side.name,
                    commit=(side.revision.commit or "")[:7],
                    subject=side.revision.subject(),
                    seeds=side.revision.seeds,
                    against=self._baseline(index),
                    code=differing_code(first.revision, side.revision),
                )
                for index, side in enumerate(self._sides)
            ),
            values=dict(_differing([side.revision.params for side in self._sides])),
            splits=tuple(page.correct(tuple(self._splits()), stepwise=self._stepwise)),
            groups=self._groups if is_repeated else (),
            stepwise=self._stepwise,
        )
        return replace(draft, data=self._data(), seeds=tuple(_over_seeds(draft)))

    @cached_property
    def _groups(self) -> tuple[tuple[int, ...], ...]:
        """Groups of sides that differ only in their seeds; the baseline's group comes first."""
        groups: list[list[int]] = []
        for index, side in enumerate(self._sides):
            firsts = ((group, self._sides[group[0]].revision) for group in groups)
            same = (group for group, first in firsts if _is_repeated(first, side.revision))
            if group := next(same, None):
                group.append(index)
            else:
                groups.append([index])
        return tuple(map(tuple, groups))

    def _baseline(self, index: int) -> int:
        number = next(i for i, group in enumerate(self._groups) if index in group)
        others = self._groups[number - 1 if self._stepwise else 0] if number else ()
        seeds = self._sides[index].revision.seeds
        return next((other for other in others if self._sides[other].revision.seeds == seeds), 0)

    def _splits(self) -> Iterator[page.Split]:
        metrics = [side.metrics for side in self._sides]
        params = self._sides[0].revision.params
        for run in dict.fromkeys(run for side in metrics for run in side):
            runs = [side.get(run, {}) for side in metrics]
            sections = (item for side in runs for item in side.items())
            names = {n for n, it in sections if isinstance(it, Mapping) and n not in BASELINES}
            for name in sorted(names, key=lambda name: metric_names.split_order(name, params)):
                found = [numbers(side.get(name, {})) for side in runs]
                if not any(found):
                    continue
                headlines = (side.get(HEADLINE, {}).get(name) for side in runs)
                headline = next(filter(None, headlines), None)
                split = page.Split(run, name, page.metrics_of(found, headline))
                for index in range(1, len(self._sides)):
                    if found[index] and found[self._baseline(index)]:
                        split = self._paired(split, self._baseline(index), index)
                yield split

    def _paired(self, split: page.Split, before: int, after: int) -> page.Split:
        """Return a split with a per-example comparison of two sides, or with a note without one."""
        sides, where = (self._sides[before], self._sides[after]), (split.run, split.name)
        old, new = (side.scores(*where) for side in sides)
        metrics = [metric for metric in old if metric in new]
        note, paired = "", []
        contents = [side.contents(*where) for side in sides] if metrics else []
        usable = contents if all(c is not None for c in contents) else [None, None]
        for metric in metrics:
            old_scores, new_scores = old[metric], new[metric]
            shared = scores.shared_rows(
                old_scores.example_ids(usable[0]), new_scores.example_ids(usable[1])
            )
            if not len(shared[0]):
                if not any({before, after} <= set(group) for group in self._groups):
                    names = " and ".join(side.name for side in sides)
                    note = f"{names} answered no example in common: their data differ"
                break  # Another seed often means other data, so no note is needed.
            # Show changed answers once. If a metric has parts, show them with the parts.
            examples = 0 if metric == metrics[0] and len(metrics) > 1 else self._examples
            test = self._test(where, (before, after), (old_scores, new_scores), shared, examples)
            paired.append(replace(test, part=metric != metrics[0]))
        notes = dict.fromkeys((*split.notes, note)) if note else split.notes
        return replace(split, paired=(*split.paired, *paired), notes=tuple(notes))

    def _test(
        self,
        where: tuple[str, str],
        sides: tuple[int, int],
        pair: tuple[scores.Scores, scores.Scores],
        shared: tuple[NDArray[np.int64], NDArray[np.int64]],
        examples: int,
    ) -> page.Paired:
        """Compare two sides on ``shared`` positions; show ``examples`` changed answers each way."""
        (old, new), (old_positions, new_positions) = pair, shared
        before = self._sides[sides[0]]
        differences = new.values[new_positions] - old.values[old_positions]
        units = before.units(*where, old.table["key"].take(pa.array(old_positions)))
        gained = np.flatnonzero(~old.right[old_positions] & new.right[new_positions])
        lost = np.flatnonzero(old.right[old_positions] & ~new.right[new_positions])
        strata = old.strata[old_positions]
        pairs = [*zip(old_positions.tolist(), new_positions.tolist(), strict=True)]
        chosen = [
            [pairs[i] for i in sample(flipped.tolist(), examples)] for flipped in (gained, lost)
        ]
        records = before.records(*where) if any(chosen) else None
        with contextlib.closing(records) if records else contextlib.nullcontext():
            better, worse = (flips.flips(old, new, flipped, records) for flipped in chosen)
        return page.Paired(
            *sides,
            metric=old.metric,
            shared=len(old_positions),
            of=max(len(old.values), len(new.values)),
            difference=float(np.mean([differences[strata == s].mean() for s in set(strata)])),
            interval=statistics.paired_interval(differences, units, strata),
            gained=len(gained),
            lost=len(lost),
            p=statistics.mcnemar(len(gained), len(lost)),
            better=better,
            worse=worse,
        )

    def _data(self) -> dict[str, bool]:
        common = set.intersection(*(set(side.datasets) for side in self._sides))
        folders = {name: [side.data(name) for side in self._sides] for name in sorted(common)}
        digests = {
            name: {describe(folder)["digest"] for folder in found if folder}
            for name, found in folders.items()
            if all(found)
        }
        return {name: len(found) == 1 for name, found in digests.items()}


def _is_repeated(before: Revision, after: Revision) -> bool:
    old, new = (
        {k: v for k, v in revision.params.items() if k not in (*SEEDS, *ELSEWHERE)}
        for revision in (before, after)
    )
    return old == new and not differing_code(before, after)


def _differing(params: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    flat = [dict(flatten({k: v for k, v in p.items() if k not in ELSEWHERE})) for p in params]
    for key in dict.fromkeys(key for side in flat for key in side):
        texts = tuple(format_value(side[key]) if key in side else "" for side in flat)
        if len(set(texts)) > 1:
            yield key, texts


def _over_seeds(comparison: page.Comparison) -> Iterator[page.SeedRow]:
    """Yield the headline metrics of each split over the seeds of every group, the best first.

    A stepwise comparison keeps the order of the groups.
    """
    judged = ((split, metric) for split in comparison.splits for metric in split.main_metrics)
    for split, metric in judged if comparison.groups else ():
        reference: dict[tuple[int, ...], float] = {}
        rows = []
        for index, group in enumerate(comparison.groups):
            values = {comparison.sides[side].seeds: metric.values[side] for side in group}
            by_seed = {seeds: value for seeds, value in values.items() if value is not None}
            if by_seed:
                over_seeds = statistics.spread([*by_seed.values()])
                row = page.SeedRow(split.run, split.name, metric.name, index, over_seeds)
                if reference:
                    difference, interval = statistics.between(reference, by_seed)
                    row = replace(row, difference=difference, interval=interval)
                rows.append(row)
            if index == 0 or comparison.stepwise:
                reference = by_seed
        yield from rows if comparison.stepwise else sorted(rows, key=lambda r: -r.spread.mean)
