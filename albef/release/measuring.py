"""Measurement of exports on the same test records, in the same process, at the same time."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from albef.data.record import Record
from albef.evaluation.behaviour.judging import Behaviour, rates
from albef.evaluation.behaviour.suite import ACCEPTED, OVERALL
from albef.loading.reading import Records
from albef.metrics.family import family_of
from albef.release.gate import Figures
from albef.runtime import manifest
from albef.runtime.loading import load
from albef.runtime.matching import Grounded, Matching
from albef.runtime.model import BATCH, Array, Model
from albef.tasks.task import RunTask, Table

log = logging.getLogger("albef")
BATCHES = (1, 8)
"""Batch sizes of the calls that are timed."""
# Rounds to warm up, least and most rounds, and the seconds after which the least suffice.
_WARM_UP, _LEAST, _MOST, _SECONDS = 2, 5, 25, 20.0


class Measured(dict[str, Figures]):
    """Measurements of an export by precision."""

    table: Table
    """Predictions of the precision that is loaded by default."""


class Tested(NamedTuple):
    """Behaviour tests of a run, and the records that they use."""

    tests: Behaviour
    records: Records


def measure(
    folders: Sequence[Path],
    task: RunTask,
    records: Records,
    threads: int = 0,
    tested: Tested | None = None,
) -> list[Measured]:
    """Evaluate and time exports of a kind, in turn for each precision and call.

    Recorded metrics are not used, because they depend on the machine and data of their time. ONNX
    Runtime takes ``threads``, or all cores if it is 0.
    """
    manifests = [manifest.read(folder) for folder in folders]
    measured = [Measured() for _ in folders]
    for precision in dict.fromkeys(name for export in manifests for name in export.precisions):
        holders = [i for i, export in enumerate(manifests) if precision in export.precisions]
        models = [load(folders[i], threads=threads, precision=precision) for i in holders]
        tables = [task.predict(records, BATCH, model) for model in models]
        log.info("%s: evaluated, timing now", precision)
        times = []
        for batch in BATCHES:
            batch_records = [records[i % len(records)] for i in range(batch)]
            times.append(medians([main_call(model, batch_records) for model in models]))
        for i, model, table, *ms in zip(holders, models, tables, *times, strict=True):
            if precision == manifests[i].precisions[0]:
                measured[i].table = table
            graphs = (folders[i] / precision).rglob("*.onnx")
            measured[i][precision] = Figures(
                metrics=family_of(type(task)).score(table),
                ms=dict(zip(BATCHES, ms, strict=True)),
                bytes=sum(path.stat().st_size for path in graphs),
                behaviour=_behaviour(model, task, tested) if tested else {},
                batch_effect=batch_effect(model, records),
            )
    return measured


def _behaviour(model: Model, task: RunTask, tested: Tested) -> dict[str, float]:
    scores = task.agreement(tested.records, tested.tests.pairs, BATCH, model)
    test_rates = rates(tested.tests.judge(scores))
    return {name: rate for name, rate in test_rates.items() if name not in (OVERALL, ACCEPTED)}


def batch_effect(model: Model, records: Records) -> float:
    """Return how much answers depend on the rest of their batch.

    This is the largest difference of a number between a record alone and the same record in
    batches of different content and order.
    """
    sample = [records[i] for i in range(min(len(records), BATCH))]
    alone = [numbers(model, [record])[0] for record in sample]
    positions = range(len(sample))
    largest = 0.0
    for chosen in (positions, positions[::-3]):
        together = numbers(model, [sample[i] for i in chosen])
        for i, row in zip(chosen, together, strict=True):
            largest = max(largest, float(np.abs(row - alone[i]).max()))
    return largest


def numbers(model: Model, records: Sequence[Record]) -> list[Array]:
    """Return all numbers of a model's answers about records that are computed together.

    The numbers are probabilities, maps and features, one array per record.
    """
    rows = [list(_flat(answer)) for answer in main_call(model, records)()]
    if isinstance(model, Matching):
        feats = (
            model.embed_image([record.image for record in records]),
            model.embed_text([record.captions[0] for record in records]),
        )
        rows = [[*row, *image, *text] for row, image, text in zip(rows, *feats, strict=True)]
    return [np.array(row, np.float64) for row in rows]


def _flat(answer: Any) -> Iterator[float]:
    if isinstance(answer, Grounded):
        yield from (answer.probability, *answer.heat.ravel())
    elif isinstance(answer, Mapping):
        yield from answer.values()
    elif isinstance(answer, list):
        yield from (item.probability for item in answer)
    else:
        yield answer


def medians(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median milliseconds of each call.

    The calls take turns in changing order, so that other load on the machine affects all of them.
    """
    durations: list[list[float]] = [[] for _ in calls]
    order, began = list(range(len(calls))), time.perf_counter()
    for turn in range(-_WARM_UP, _MOST):
        if turn >= _LEAST and time.perf_counter() - began > _SECONDS:
            break
        for i in order:
            start = time.perf_counter()
            calls[i]()
            if turn >= 0:
                durations[i].append(1000 * (time.perf_counter() - start))
        order.reverse()
    return [statistics.median(times) for times in durations]


def main_call(model: Model, records: Sequence[Record]) -> Callable[[], Any]:
    """Return the main call of a model's kind, applied to these records."""
    images = list(zip(*(record.images for record in records), strict=True))
    call, texts = getattr(model, model.main), [record.captions[0] for record in records]
    return lambda: call(*images, texts)
