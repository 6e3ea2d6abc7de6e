"""The sides of a comparison, each part read once from its revision, as far as it is at hand."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.shards import ShardError, read_index
from albef.layout import BEHAVIOUR
from albef.report import curves, drift, scores
from albef.report.comparison import Split
from albef.report.pictures import SplitRecords
from flows.experiments.revisions import SEEDS, Lost, NotAtHand, Revision, differing_code, lost

ELSEWHERE = ("runtime", "paths")
"""Sections that no product depends on: speed and places."""


class Sides:
    """What is read of the revisions.

    Attributes:
        revisions: the baseline first.
        notes: sentences on what is not shown, in order.
    """

    def __init__(self, revisions: Sequence[Revision]) -> None:
        self.revisions = revisions
        self.notes: dict[str, None] = {}
        self._indexes: dict[tuple[int, str], pa.Table | None] = {}
        self._tables: dict[tuple[int, str, bool], pa.Table | None] = {}
        self._problems: dict[str, None] = {}
        self._lost: dict[str, dict[str, None]] = {}

    def name(self, side: int) -> str:
        """What it is called, as it was asked for."""
        return self.revisions[side].name

    def missing(self, problem: object) -> None:
        """Keep what should be there and is not; lost files are told together."""
        if isinstance(problem, Lost):
            self._lost.setdefault(problem.revision, {})[problem.path] = None
        else:
            self._problems[str(problem)] = None

    def problems(self) -> list[str]:
        """A sentence for all that should be there and is not."""
        return [*(lost(name, [*paths]) for name, paths in self._lost.items()), *self._problems]

    def metrics(self, *, optional: bool) -> list[dict[str, dict[str, Any]]]:
        """The metrics of each side by run.

        Raises:
            NotAtHand: there are none, and they are not optional.
        """
        found: list[dict[str, dict[str, Any]]] = []
        for revision in self.revisions:
            try:
                found.append(revision.metrics())
            except NotAtHand:
                if not optional:
                    raise
                found.append({})
        return found

    @cached_property
    def curves(self) -> list[dict[str, dict[str, curves.Curve]]]:
        """The curves of each side."""
        found = []
        for revision in self.revisions:
            try:
                folders = revision.trainings()
            except NotAtHand as error:
                self.missing(error)
                folders = {}
            found.append({n: c for n, path in folders.items() if (c := curves.read(path))})
        return found

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Sides that differ in their seeds alone, in order; the baseline's first."""
        found: dict[str, list[int]] = {}
        code: list[Revision] = []
        for side, revision in enumerate(self.revisions):
            same = next((i for i, c in enumerate(code) if not differing_code(c, revision)), None)
            if same is None:
                same = len(code)
                code.append(revision)
            kept = {k: v for k, v in revision.params.items() if k not in (*SEEDS, *ELSEWHERE)}
            found.setdefault(json.dumps([same, kept], sort_keys=True), []).append(side)
        return tuple(tuple(sides) for sides in found.values())

    def repeated(self) -> bool:
        """Whether any group has several seeds."""
        return any(len({self.revisions[side].seeds for side in group}) > 1 for group in self.groups)

    def baseline(self, side: int) -> int:
        """What a side is held against: of another group the one with its seed, else the first."""
        first = self.groups[0]
        if side in first:
            return 0
        seeds = self.revisions[side].seeds
        return next((own for own in first if self.revisions[own].seeds == seeds), 0)

    def predictions(self, side: int, split: Split) -> pa.Table | None:
        """The predictions on a split, or the cases of behaviour tests; None, and a sentence, where
        there are none."""
        tested = split.name == BEHAVIOUR
        key = (side, split.run, tested)
        if key not in self._tables:
            revision = self.revisions[side]
            table, path = None, None
            try:
                fetch = revision.behaviour if tested else revision.predictions
                path = fetch(split.run)
                if path is None:
                    what = "cases of behaviour tests" if tested else "predictions"
                    self.missing(
                        f"{revision.name} has metrics of {split.run} but no {what}, so its "
                        "examples are not compared; "
                        f"`albef run --only evaluate@{split.run}` makes them"
                    )
                else:
                    table = pq.read_table(path)
            except NotAtHand as error:
                self.missing(error)
            except pa.ArrowException as error:
                where = path.relative_to(revision.folder) if path else split.run
                self.missing(
                    f"{revision.name}: {where} is damaged ({' '.join(str(error).split())}); "
                    f"`albef run --only evaluate@{split.run}` makes it again"
                )
            self._tables[key] = table
        return self._tables[key]

    def scores(self, side: int, split: Split) -> dict[str, scores.Scores]:
        """By metric; empty where they are not known."""
        table = self.predictions(side, split)
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
        table = self.predictions(side, split)
        return str(table["split"][0]) if table is not None and table.num_rows else ""

    def _dataset(self, side: int, run: str) -> str:
        return str(self.revisions[side].runs.get(run, {}).get("dataset", ""))

    def index(self, side: int, dataset: str) -> pa.Table | None:
        """The index of a data set; None where there is none, with a sentence if it was lost."""
        if (side, dataset) not in self._indexes:
            try:
                folder = self.revisions[side].data(dataset)
                self._indexes[side, dataset] = read_index(folder) if folder else None
            except (NotAtHand, ShardError) as error:
                self.missing(error)
                self._indexes[side, dataset] = None
        return self._indexes[side, dataset]

    def _rows(self, side: int, split: Split) -> pa.Table | None:
        index = self.index(side, self._dataset(side, split.run))
        if index is None:
            return None
        return index.filter(pc.equal(index["split"], self._shown(side, split)))

    def contents(self, side: int, split: Split) -> "pd.Series[Any] | None":
        """A hash of what stands in each record of a split, by key."""
        rows = self._rows(side, split)
        return None if rows is None else drift.contents(rows)

    def units(self, side: int, split: Split, keys: pa.ChunkedArray) -> NDArray[np.int64]:
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

    def records(self, side: int, split: Split) -> SplitRecords | None:
        """The pictures of a split, where they are on this machine."""
        dataset = self._dataset(side, split.run)
        try:
            folder = self.revisions[side].pictures(dataset)
            if folder is not None:
                return SplitRecords(folder, self._shown(side, split))
            reason = "its shards are not in the cache"
        except (NotAtHand, ShardError) as error:
            reason = str(error)
        self.notes[
            f"{self.name(side)}: the pictures of {dataset} are not shown, since {reason}; "
            "`dvc fetch` brings them, after `dvc exp apply` or `git checkout` of it"
        ] = None
        return None

    def data(self, side: int, dataset: str) -> Path | None:
        """The folder of a data set; None where there is none, with a sentence if it was lost."""
        try:
            return self.revisions[side].data(dataset)
        except NotAtHand as error:
            self.missing(error)
            return None
