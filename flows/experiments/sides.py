"""Artifacts of a revision as tables for a comparison, as far as they are available."""

import contextlib
import json
from collections.abc import Iterator
from functools import cache, cached_property
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
from albef.report import scores
from albef.report.thumbnails import SplitRecords
from flows.experiments.revisions import Revision, RevisionUnavailableError


class Gaps:
    """Error messages about missing files, and notes about parts that are not shown."""

    def __init__(self) -> None:
        self.notes: dict[str, None] = {}
        self.problems: dict[str, str] = {}

    def add(self, problem: object) -> None:
        """Record an error message. Of each revision, only the first unavailable file counts."""
        key = problem.revision if isinstance(problem, RevisionUnavailableError) else str(problem)
        self.problems.setdefault(key, str(problem))

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record an error of the block instead of raising it, if it is about a missing file."""
        try:
            yield
        except (RevisionUnavailableError, ShardError) as error:
            self.add(error)


class Side:
    """A revision of a comparison. Each artifact is read once; a missing one is recorded as a gap.

    A split is named by its run and its name. For the cases of behaviour tests the name is
    :data:`albef.layout.BEHAVIOUR`.
    """

    def __init__(self, revision: Revision, gaps: Gaps) -> None:
        self.revision, self.name, self.layout = revision, revision.name, revision.layout
        self.runs: dict[str, Any] = dict(revision.params.get("tasks") or {})
        self.datasets = list(revision.params.get("datasets") or {})
        self._gaps = gaps
        self.data, self.index = cache(self._data), cache(self._index)
        self._table = cache(self._read)

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics of every evaluated run, by run."""
        files = {run: self.revision.fetch(self.layout.metrics(run)) for run in self.runs}
        return {run: json.loads(path.read_text()) for run, path in files.items() if path}

    def predictions(self, run: str, split: str) -> pa.Table | None:
        """Return the predictions of a run, or the cases of its behaviour tests; None if missing."""
        is_tested = split == BEHAVIOUR
        file = self.layout.behaviour(run) if is_tested else self.layout.predictions(run)
        return self._table(run, file)

    def _read(self, run: str, file: Path) -> pa.Table | None:
        with self._gaps.recorded():
            if (path := self.revision.fetch(file)) is not None:
                return pq.read_table(path)
            self._gaps.add(
                f"{self.name} has metrics of {run} but no {file.name}, so its examples are not "
                f"compared; create it with `albef run --only evaluate@{run}`"
            )
        return None

    def scores(self, run: str, split: str) -> dict[str, scores.Scores]:
        """Return the per-example scores by metric; empty if they are not known."""
        table = self.predictions(run, split)
        if table is None:
            return {}
        if split != BEHAVIOUR:
            table = table.filter(pc.equal(table["split"], split))
        columns = [n for n in table.column_names if table[n].null_count < table.num_rows]
        return scores.by_metric(table.select(columns))

    def _data(self, dataset: str) -> Path | None:
        """Return the folder of a dataset with its description and index; None if missing."""
        folder = self.layout.data(dataset)
        parts = [folder / name for name in ("dataset.json", "index.parquet")]
        with self._gaps.recorded():
            if all(self.revision.fetch(part) for part in parts):
                return self.revision.folder / folder
        return None

    def _index(self, dataset: str) -> pa.Table | None:
        folder = self.data(dataset)
        with self._gaps.recorded():
            return read_index(folder) if folder else None
        return None

    def contents(self, run: str, split: str) -> "pd.Series[Any] | None":
        """Return a hash of the content of each record in a split, by key; None if unknown."""
        rows = self._rows(run, split)
        return None if rows is None else scores.contents(rows)

    def units(self, run: str, split: str, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the resampling unit of each example: its pair, or all records with its image."""
        rows = self._rows(run, split)
        if rows is None:
            return np.unique(keys.to_numpy(), return_inverse=True)[1]
        ids = [json.loads(meta).get("pair") for meta in rows["meta"].to_pylist()]
        if any(pair is None for pair in ids):
            ids = rows["image_id"].to_pylist()
        unit = pd.Series(ids, index=rows["key"].to_pandas())
        units: NDArray[np.int64] = keys.to_pandas().map(unit).fillna(-1).to_numpy().astype(np.int64)
        return units

    def records(self, run: str, split: str) -> SplitRecords | None:
        """Return the images of a split; None if the work tree lacks this version of the dataset."""
        dataset = self._dataset(run)
        local, data = self.layout.data(dataset), self.data(dataset)
        try:
            if data and describe(local)["digest"] == describe(data)["digest"]:
                return SplitRecords(local, self._split_of_data(run, split))
        except ShardError:  # The dataset is missing in the work tree.
            pass
        self._gaps.notes[
            f"{self.name}: images of {dataset} are not shown, because {local} is missing or "
            "another version; use `dvc exp apply`, or `git checkout` and `dvc checkout`"
        ] = None
        return None

    def _dataset(self, run: str) -> str:
        return str(self.runs.get(run, {}).get("dataset", ""))

    def _split_of_data(self, run: str, split: str) -> str:
        """Return the split of the dataset whose images the model was shown."""
        if split != BEHAVIOUR:
            return split
        table = self.predictions(run, split)
        return str(table["split"][0]) if table is not None and table.num_rows else ""

    def _rows(self, run: str, split: str) -> pa.Table | None:
        index = self.index(self._dataset(run))
        if index is None:
            return None
        return index.filter(pc.equal(index["split"], self._split_of_data(run, split)))
