"""Results of runs and their baselines, with examples and behavior tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.evaluation.statistics import Interval, proportion
from albef.io import read_json
from albef.layout import BASELINES, BEHAVIOUR, HEADLINE, Layout
from albef.lineage import CONFIG
from albef.report import metric_names
from albef.report.sections import examples
from albef.report.sections.examples import Group, Query
from albef.report.thumbnails import SplitRecords, Thumbnail, sample
from albef.report.wording import numbers

_PASSES = {
    "changed": "only the true text is accepted",
    "same": "both texts get the same decision",
    "accepted": "the changed text is accepted",
    "refused": "the changed text is not accepted",
    "lower": "the changed text scores lower",
    "lowest": "the changed text scores lowest of the image's texts",
}
"""Condition for a pass, by what a behavior test expects."""
_TESTS = {
    "left_right": "left and right swapped",
    "above_below": "above and below swapped",
    "short": "only one group named",
    "short_count": "one group with a wrong count",
    "paraphrase": "other forms of captions",
    "synonym": "words with the same meaning",
    "count": "wrong count",
    "unrelated": "caption of another image",
}
"""Change that each built-in behavior test makes."""


@dataclass(frozen=True)
class Row:
    """A metric of a split, the same metric by ITC and by ITM alone, and baselines.

    Those that are unknown, or equal to the value for all metrics, are None.
    """

    name: str
    value: float
    itc: float | None
    itm: float | None
    chance: float | None
    random_weights: float | None
    text_only: float | None

    @property
    def description(self) -> str:
        """Return the description of the metric, or ""."""
        return metric_names.describe(self.name)


@dataclass(frozen=True)
class SplitResult:
    """Results of a run on one split, with those of its baselines."""

    name: str
    metrics: Mapping[str, float]
    chance: Mapping[str, float] = field(default_factory=dict)
    random_weights: Mapping[str, float] = field(default_factory=dict)
    text_only: Mapping[str, float] = field(default_factory=dict)
    headline: str = ""
    """The metric that the run is judged by."""
    records: int = 0
    """Number of records in the split."""
    examples: Sequence[Group] = ()
    median: Query | None = None
    """The text query whose correct image has the median rank, if images are searched by text."""

    def rows(self) -> list[Row]:
        """Return the metrics, headline first."""
        plain = {name: metric_names.plain(name) for name in self.metrics}
        alone = [self._by(prefix) for prefix in metric_names.ALONE]
        baselines = (*alone, self.chance, self.random_weights, self.text_only)
        rows = [
            Row(name, value, *(baseline.get(name) for baseline in baselines))
            for name, value in self.metrics.items()
            if name == plain[name] or plain[name] not in self.metrics
        ]
        rows.sort(key=lambda row: (row.name != self.headline, metric_names.order(row.name)))
        return rows

    def _by(self, prefix: str) -> dict[str, float]:
        """Return the metrics of a score alone, or none if they are the final ones."""
        alone = {
            metric_names.plain(name): value
            for name, value in self.metrics.items()
            if name.startswith(prefix)
        }
        is_final = all(value == self.metrics.get(name) for name, value in alone.items())
        return {} if is_final else alone

    @property
    def first(self) -> Row | None:
        """Return the metric to name first; None if there is none."""
        return next(iter(self.rows()), None)


@dataclass(frozen=True)
class BehaviourTest:
    """A behavior test: its change, its condition for a pass, and its results.

    ``passed`` of ``cases`` cases pass, with Wilson's interval in percent.
    """

    name: str
    description: str
    condition: str
    passed: int
    cases: int
    interval: Interval
    chance: float | None
    random_weights: float | None
    failed: Sequence[tuple[Thumbnail | None, Mapping[str, Any]]]
    """A sample of the failed cases, each with its image if that is available."""

    @property
    def rate(self) -> float:
        """Return the percentage of cases that pass."""
        return 100.0 * self.passed / self.cases


@dataclass(frozen=True)
class Run:
    """An entry of ``tasks``; ``notes`` describe what is missing."""

    name: str
    kind: str = ""
    dataset: str = ""
    init: str = ""
    splits: Sequence[SplitResult] = ()
    notes: Sequence[str] = ()
    behaviour: Sequence[BehaviourTest] = ()
    tested_split: str = ""
    """Split of the behavior tests."""
    accepted: float = 0.0
    """Percentage of its true texts that the model accepts."""

    @property
    def first(self) -> SplitResult | None:
        """Return the first split with any metric."""
        return next((split for split in self.splits if split.first), None)


def read(params: Mapping[str, Any], layout: Layout, name: str, count: int) -> Run:
    """Return the results of a run on each split, with ``count`` examples per group."""
    values = params["tasks"][name]
    kind, dataset, init = (str(values.get(key, "")) for key in ("kind", "dataset", "init"))
    run = Run(name, kind, dataset, init)
    metrics, folder = read_json(layout.metrics(name)), layout.data(run.dataset)
    if metrics is None:
        note = f"This run has not been evaluated yet: {layout.metrics(name)} is missing."
        return replace(run, notes=(note,))
    predictions, cases = _table(layout.predictions(name)), _table(layout.behaviour(name))
    sizes = (read_json(folder / "dataset.json") or {}).get("splits", {})
    rerank_k = (read_json(layout.model(name) / CONFIG) or {}).get("values", {}).get("rerank_k")
    notes = {
        f"Examples are not shown because {layout.predictions(name)} is missing.": not predictions,
        f"Images are not shown because the dataset {folder} is missing.": not sizes,
        f"Behavior tests are not shown because {layout.behaviour(name)} is missing.": (
            BEHAVIOUR in metrics and not cases
        ),
    }
    splits = []
    for split, section in metrics.items():
        if split in (*BASELINES, BEHAVIOUR, HEADLINE) or not isinstance(section, Mapping):
            continue
        records = SplitRecords(folder, split) if split in sizes else None
        split_rows = predictions and predictions.filter(pc.equal(predictions["split"], split))
        baselines = {key: numbers(metrics.get(key, {}).get(split, {})) for key in BASELINES}
        splits.append(
            SplitResult(
                split,
                numbers(section),
                **baselines,
                headline=metrics.get(HEADLINE, {}).get(split, ""),
                records=sizes.get(split, 0),
                examples=examples.read(split_rows, records, count, rerank_k) if split_rows else (),
                median=examples.median_query(split_rows, records, rerank_k)
                if split_rows and records
                else None,
            )
        )
        if cases and cases["split"][0].as_py() == split:
            tests = list(read_tests(cases, metrics, records, count))
            run = replace(run, behaviour=tests, tested_split=split)
        if records:
            records.close()
    splits.sort(key=lambda split: metric_names.split_order(split.name, params))
    accepted = metrics.get(BEHAVIOUR, {}).get("accepted", 0.0)
    missing = [note for note, holds in notes.items() if holds]
    return replace(run, splits=splits, accepted=accepted, notes=missing)


def _table(path: Path) -> pa.Table | None:
    return pq.read_table(path) if path.is_file() else None


def read_tests(
    cases: pa.Table, metrics: Mapping[str, Any], records: SplitRecords | None, count: int
) -> Iterator[BehaviourTest]:
    """Yield the behavior tests of a run's stored cases, with ``count`` failures of each."""
    thumbnail = records.thumbnail if records else lambda key: None
    chance, random = (metrics.get(base, {}).get(BEHAVIOUR, {}) for base in BASELINES[:2])
    for name in pc.unique(cases["test"]).to_pylist():
        rows = cases.filter(pc.equal(cases["test"], name)).to_pylist()
        failed = [row for row in rows if not row["passed"]]
        passed = len(rows) - len(failed)
        yield BehaviourTest(
            name,
            _TESTS.get(name, ""),
            _PASSES[rows[0]["expects"]],
            passed,
            len(rows),
            proportion(passed, len(rows)),
            chance.get(name),
            random.get(name),
            [(thumbnail(row["key"]), row) for row in sample(failed, count)],
        )
