"""What runs reached, with examples, read from their products for page and card."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.layout import BASELINES, BEHAVIOUR, HEADLINE, Layout
from albef.report import answered, examples, located
from albef.report.behaviour import Behaviour, behaviour
from albef.report.metrics import flatten
from albef.report.pictures import SplitRecords
from albef.report.results import Run, SplitResult
from pipelines.stage import read_json


def read_run(layout: Layout, name: str, values: Mapping[str, Any], count: int) -> Run:
    """What a run reached on each split.

    Args:
        layout: where products lie.
        name: of the run.
        values: of its section.
        count: examples of each group.
    """
    kind, dataset, init = (str(values.get(key, "")) for key in ("kind", "dataset", "init"))
    metrics = read_json(layout.metrics(name))
    if metrics is None:
        note = f"This run has not been evaluated yet: {layout.metrics(name)} is missing."
        return Run(name, kind, dataset, init, notes=(note,))
    notes = []
    path = layout.predictions(name)
    table = pq.read_table(path) if path.is_file() else None
    if table is None:
        notes.append(f"There are no examples, since {path} is missing.")
    folder = layout.data(dataset)
    present = (read_json(folder / "dataset.json") or {}).get("splits", {})
    if not present:
        notes.append(f"There are no pictures, since the data set at {folder} is missing.")
    splits = []
    for split, section in metrics.items():
        if split in (*BASELINES, BEHAVIOUR, HEADLINE) or not isinstance(section, Mapping):
            continue
        beside = {key: _numbers(metrics.get(key, {}).get(split, {})) for key in BASELINES}
        records = SplitRecords(folder, split) if split in present else None
        result = SplitResult(
            name=split,
            records=present.get(split, 0),
            metrics=_numbers(section),
            headline=metrics.get(HEADLINE, {}).get(split, ""),
            chance=beside["chance"],
            random_weights=beside["random_weights"],
            text_only=beside["text_only"],
        )
        if table is not None:
            part = table.filter(pc.equal(table["split"], split))
            result = with_examples(result, part, records, count)
        splits.append(result)
        if records:
            records.close()
    # The first of evaluate's splits is the one that a run is judged by; JSON has lost its order.
    splits.sort(key=lambda split: (split.name != "test", split.name))
    if BEHAVIOUR in metrics and not layout.behaviour(name).is_file():
        notes.append(f"Behaviour tests are not shown, since {layout.behaviour(name)} is missing.")
    tested = _behaviour(layout, name, dataset, metrics, count)
    return Run(name, kind, dataset, init, tuple(splits), tuple(notes), tested)


def _behaviour(
    layout: Layout, name: str, dataset: str, metrics: Mapping[str, Any], count: int
) -> Behaviour | None:
    """The behaviour tests of a run, as far as they and their pictures are here."""
    path, folder = layout.behaviour(name), layout.data(dataset)
    table = pq.read_table(path) if path.is_file() else None
    if table is None or table.num_rows == 0:
        return None
    split = table["split"][0].as_py()
    present = (read_json(folder / "dataset.json") or {}).get("splits", {})
    records = SplitRecords(folder, split) if split in present else None
    try:
        return behaviour(table, metrics, records, count)
    finally:
        if records:
            records.close()


def with_examples(
    result: SplitResult, table: pa.Table, records: SplitRecords | None, count: int
) -> SplitResult:
    """A result with counts and examples, as far as predictions and records are here."""
    if table.num_rows == 0:
        return result
    if located.is_grounding(table):
        return replace(result, places=located.places(table, records, count) if records else ())
    if not examples.is_ranking(table):
        known = answered.answers(table, records, (count + 1) // 2)
        rows = () if known else examples.rows(table, records, count)
        return replace(result, answers=known, examples=rows)
    return replace(
        result,
        outcomes=examples.outcomes(table, records),
        galleries=examples.galleries(table, records, count) if records else (),
    )


def _numbers(section: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in flatten(section)
        if isinstance(value, int | float) and math.isfinite(value)
    }
