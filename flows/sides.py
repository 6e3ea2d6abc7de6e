"""The sides of a comparison, read from their revisions: what `albef compare` shows of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.shards import ShardError, describe, read_index
from albef.layout import BEHAVIOUR
from albef.report import curves, drift, flips, scores, statistics
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
from albef.report.pictures import SplitRecords
from albef.report.wording import plain
from flows.results import COLUMNS
from flows.revisions import SEEDS, Lost, NotAtHand, Revision, differing_code, lost, opened, subject

_ELSEWHERE = ("runtime", "paths")
"""Sections that no product depends on: speed and places."""


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
        return _Sides(revisions, examples).comparison(told, reference)


def write_curves(name: str, path: Path) -> None:
    """Write the curves of a revision as a reference file.

    Raises:
        CompareError: it has none.
    """
    with opened([name]) as (revision,):
        found = _Sides([revision], 0).curves[0]
    if not found:
        raise CompareError(f"{name} has no curves: nothing was trained there")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(curves.write_reference(found))


class _Sides:
    """What is read of the revisions; each part once, as far as it is at hand."""

    def __init__(self, revisions: Sequence[Revision], examples: int) -> None:
        self._all = revisions
        self._examples = examples
        self._indexes: dict[tuple[int, str], pa.Table | None] = {}
        self._tables: dict[tuple[int, str, bool], pa.Table | None] = {}
        self._problems: dict[str, None] = {}
        self._lost: dict[str, dict[str, None]] = {}
        self._notes: dict[str, None] = {}

    def _missing(self, problem: object) -> None:
        """Keep what should be there and is not; lost files are told together."""
        if isinstance(problem, Lost):
            self._lost.setdefault(problem.revision, {})[problem.path] = None
        else:
            self._problems[str(problem)] = None

    def problems(self) -> list[str]:
        """A sentence for all that should be there and is not."""
        return [*(lost(name, [*paths]) for name, paths in self._lost.items()), *self._problems]

    def comparison(
        self, reference: curves.Curves, path: Path | None
    ) -> tuple[Comparison, list[str]]:
        """Everything; the baseline alone may lack metrics where it is held to a reference."""
        metrics = self._metrics(optional=path is not None)
        found = Comparison(
            sides=tuple(self._side(side) for side in range(len(self._all))),
            values=tuple(_values([revision.params for revision in self._all])),
            splits=tuple(self._splits(metrics)),
            groups=self.groups if self._repeated() else (),
            curves=tuple(self.curves),
            reference=reference,
            reference_name=path.name if path else "",
            deviations=tuple(curves.deviations(reference, self.curves[0])),
        )
        if path is not None and not found.deviations:
            raise CompareError(
                f"{path} and {self._all[0].name} have no curve in common: the file has "
                f"{', '.join(reference)}, {self._all[0].name} {', '.join(self.curves[0]) or 'none'}"
            )
        self._refuse_strangers(found)
        found = replace(found, data=tuple(self._data()), seeds=tuple(_over_seeds(found)))
        return replace(found, notes=(*self.problems(), *self._notes)), self.problems()

    def _refuse_strangers(self, found: Comparison) -> None:
        for other in range(1, len(self._all)):
            alike = any(m.difference(0, other) is not None for s in found.splits for m in s.metrics)
            pairs = [
                {(t, n) for t in c for n in c[t]} for c in (self.curves[0], self.curves[other])
            ]
            if not alike and not pairs[0] & pairs[1]:
                raise CompareError(
                    f"{self._all[0].name} and {self._all[other].name} have nothing in common: "
                    "no metric and no curve is in both"
                )

    def _metrics(self, *, optional: bool) -> list[dict[str, dict[str, Any]]]:
        found: list[dict[str, dict[str, Any]]] = []
        for revision in self._all:
            try:
                found.append(revision.metrics())
            except NotAtHand:
                if not optional:
                    raise
                found.append({})
        return found

    def _side(self, side: int) -> Side:
        revision = self._all[side]
        return Side(
            name=revision.name,
            commit=(revision.commit or "")[:7],
            subject=subject(revision.commit),
            seeds=revision.seeds,
            against=self._baseline(side),
            code=differing_code(self._all[0], revision),
        )

    @cached_property
    def curves(self) -> list[dict[str, dict[str, curves.Curve]]]:
        """The curves of each side."""
        found = []
        for revision in self._all:
            try:
                folders = revision.trainings()
            except NotAtHand as error:
                self._missing(error)
                folders = {}
            found.append({n: c for n, path in folders.items() if (c := curves.read(path))})
        return found

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Sides that differ in their seeds alone, in order; the baseline's first."""
        found: dict[str, list[int]] = {}
        code: list[Revision] = []
        for side, revision in enumerate(self._all):
            same = next((i for i, c in enumerate(code) if not differing_code(c, revision)), None)
            if same is None:
                same = len(code)
                code.append(revision)
            kept = {k: v for k, v in revision.params.items() if k not in (*SEEDS, *_ELSEWHERE)}
            found.setdefault(json.dumps([same, kept], sort_keys=True), []).append(side)
        return tuple(tuple(sides) for sides in found.values())

    def _repeated(self) -> bool:
        """Whether any group has several seeds."""
        return any(len({self._all[side].seeds for side in group}) > 1 for group in self.groups)

    def _baseline(self, side: int) -> int:
        """What a side is held against: of another group the one with its seed, else the first."""
        first = self.groups[0]
        if side in first:
            return 0
        seeds = self._all[side].seeds
        return next((own for own in first if self._all[own].seeds == seeds), 0)

    # Metrics and examples

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
                split = Split(run, name, metrics_of(numbers))
                for side in range(1, len(self._all)):
                    if numbers[side] and numbers[self._baseline(side)]:
                        split = self._paired(split, self._baseline(side), side)
                yield split

    def _paired(self, split: Split, before: int, after: int) -> Split:
        """A split with what two sides differ in example by example, or a note why not."""
        old, new = self._scores(before, split), self._scores(after, split)
        metrics = [metric for metric in old if metric in new]
        if not metrics:
            if all(self._predictions(side, split) is not None for side in (before, after)):
                note = "its predictions are of a kind that is not compared example by example"
                return replace(split, notes=tuple(dict.fromkeys((*split.notes, note))))
            return split
        contents = [self._contents(side, split) for side in (before, after)]
        known = contents if all(c is not None for c in contents) else [None, None]
        for metric in metrics:
            had, has = old[metric], new[metric]
            places, others = scores.shared(had.names(known[0]), has.names(known[1]))
            if not len(places):
                if any({before, after} <= set(group) for group in self.groups):
                    return split  # another seed may well mean other data
                names = f"{self._all[before].name} and {self._all[after].name}"
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
        units = self._units(before, split, old.table["key"].take(pa.array(places)))
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
        records = self._records(before, split) if any(shown) else None
        try:
            better, worse = (flips.flips(old, new, part, records) for part in shown)
        except ShardError as error:
            self._missing(f"{self._all[before].name}: {error}")
            better, worse = (flips.flips(old, new, part, None) for part in shown)
        finally:
            if records:
                records.close()
        return replace(test, better=better, worse=worse)

    def _predictions(self, side: int, split: Split) -> pa.Table | None:
        """The predictions on a split, or the cases of behaviour tests; None, and a sentence, where
        there are none."""
        tested = split.name == BEHAVIOUR
        key = (side, split.run, tested)
        if key not in self._tables:
            revision = self._all[side]
            table, path = None, None
            try:
                fetch = revision.behaviour if tested else revision.predictions
                path = fetch(split.run)
                if path is None:
                    what = "cases of behaviour tests" if tested else "predictions"
                    self._missing(
                        f"{revision.name} has metrics of {split.run} but no {what}, so its "
                        "examples are not compared; "
                        f"`albef run --only evaluate@{split.run}` makes them"
                    )
                else:
                    table = pq.read_table(path)
            except NotAtHand as error:
                self._missing(error)
            except pa.ArrowException as error:
                where = path.relative_to(revision.folder) if path else split.run
                self._missing(
                    f"{revision.name}: {where} is damaged ({' '.join(str(error).split())}); "
                    f"`albef run --only evaluate@{split.run}` makes it again"
                )
            self._tables[key] = table
        return self._tables[key]

    def _scores(self, side: int, split: Split) -> dict[str, scores.Scores]:
        """By metric; empty where they are not known."""
        table = self._predictions(side, split)
        if table is None:
            return {}
        if split.name != BEHAVIOUR:
            table = table.filter(pc.equal(table["split"], split.name))
        full = [n for n in table.column_names if table[n].null_count < table.num_rows]
        return scores.parts(table.select(full))

    def _shown(self, side: int, split: Split) -> str:
        """The split of the data set whose pictures were shown."""
        if split.name != BEHAVIOUR:
            return split.name
        table = self._predictions(side, split)
        return str(table["split"][0]) if table is not None and table.num_rows else ""

    # Data

    def _dataset(self, side: int, run: str) -> str:
        return str(self._all[side].runs.get(run, {}).get("dataset", ""))

    def _index(self, side: int, dataset: str) -> pa.Table | None:
        """The index of a data set; None where there is none, with a sentence if it was lost."""
        if (side, dataset) not in self._indexes:
            try:
                folder = self._all[side].data(dataset)
                self._indexes[side, dataset] = read_index(folder) if folder else None
            except (NotAtHand, ShardError) as error:
                self._missing(error)
                self._indexes[side, dataset] = None
        return self._indexes[side, dataset]

    def _rows(self, side: int, split: Split) -> pa.Table | None:
        index = self._index(side, self._dataset(side, split.run))
        if index is None:
            return None
        return index.filter(pc.equal(index["split"], self._shown(side, split)))

    def _contents(self, side: int, split: Split) -> "pd.Series[Any] | None":
        rows = self._rows(side, split)
        return None if rows is None else drift.contents(rows)

    def _units(self, side: int, split: Split, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """What each example's picture belongs to: its pair, else all records that show it."""
        rows = self._rows(side, split)
        if rows is None:
            return np.unique(keys.to_numpy(), return_inverse=True)[1]
        pairs = [json.loads(meta).get("pair") for meta in rows["meta"].to_pylist()]
        ids = rows["image_id"].to_pylist()
        if all(pair is not None for pair in pairs):
            ids = pairs
        unit = pd.Series(ids, index=rows["key"].to_pandas())
        found: NDArray[np.int64] = keys.to_pandas().map(unit).fillna(-1).to_numpy().astype(np.int64)
        return found

    def _records(self, side: int, split: Split) -> SplitRecords | None:
        """The pictures of a split, where they are on this machine."""
        dataset = self._dataset(side, split.run)
        try:
            folder = self._all[side].pictures(dataset)
            if folder is not None:
                return SplitRecords(folder, self._shown(side, split))
            reason = "its shards are not in the cache"
        except (NotAtHand, ShardError) as error:
            reason = str(error)
        self._notes[
            f"{self._all[side].name}: the pictures of {dataset} are not shown, since {reason}; "
            "`dvc fetch` brings them, after `dvc exp apply` or `git checkout` of it"
        ] = None
        return None

    def _data(self) -> Iterator[Data]:
        """Every data set that two sides have."""
        for after in range(1, len(self._all)):
            before = self._baseline(after)
            had = self._all[before].datasets()
            for name in (n for n in self._all[after].datasets() if n in had):
                folders = [self._folder(side, name) for side in (before, after)]
                if folders == [None, None]:
                    continue  # made on neither side
                if folders[0] is None or folders[1] is None:
                    lacking = before if folders[0] is None else after
                    note = f"not at hand on {self._all[lacking].name}"
                    yield Data(name, before, after, note=note)
                elif describe(folders[0])["digest"] == describe(folders[1])["digest"]:
                    yield Data(name, before, after)
                else:
                    indexes = [self._index(side, name) for side in (before, after)]
                    yield Data(name, before, after, drift=drift.compare(*indexes))

    def _folder(self, side: int, dataset: str) -> Path | None:
        try:
            return self._all[side].data(dataset)
        except NotAtHand as error:
            self._missing(error)
            return None


def _numbers(section: object) -> Iterator[tuple[str, float]]:
    if isinstance(section, Mapping):
        for name, value in flatten(section):
            if isinstance(value, int | float) and np.isfinite(value):
                yield name, float(value)


def _values(params: Sequence[Mapping[str, Any]]) -> Iterator[Value]:
    flat = [dict(flatten({k: v for k, v in p.items() if k not in _ELSEWHERE})) for p in params]
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
