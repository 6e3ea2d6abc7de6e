"""Exports side by side: the same test records, the same process, the same moments."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from albef.data.record import Record
from albef.evaluation.behaviour.judging import Behaviour, rates
from albef.evaluation.behaviour.suite import ACCEPTED, OVERALL
from albef.export.scoring import agreement, predict
from albef.release.gate import Figures
from albef.runtime import manifest
from albef.runtime.answering import Answering
from albef.runtime.classifying import Comparing, Entailing
from albef.runtime.loading import load
from albef.runtime.matching import Grounding, Matching
from albef.runtime.model import Model
from albef.tasks.task import Records, RunTask, Table

log = logging.getLogger("albef")
BATCHES = (1, 8)
"""Sizes of the calls that are timed."""
_WARM, _LEAST, _MOST, _SECONDS = 2, 5, 25, 20.0  # rounds, and when no more than the least are made


class Measured(dict[str, Figures]):
    """Figures of an export by precision.

    Attributes:
        table: predictions of the precision that is loaded unless others are named.
    """

    table: Table


class Tested(NamedTuple):
    """The behaviour tests of a run, and the records that they speak of."""

    tests: Behaviour
    records: Records


def measure(
    folders: Sequence[Path],
    task: RunTask,
    records: Records,
    threads: int = 0,
    tested: Tested | None = None,
) -> list[Measured]:
    """Evaluate and time exports of a kind, precision by precision and call by call in turn.

    Recorded metrics are of the machine and the data of their time, so nothing is taken from them.

    Args:
        folders: of the exports.
        task: tells how they are evaluated.
        records: of the split.
        threads: of ONNX Runtime; 0 takes all cores.
        tested: its behaviour tests, if it has any.

    Raises:
        ExportError: a folder is no export that this version reads.
    """
    manifests = [manifest.read(folder) for folder in folders]
    found = [Measured() for _ in folders]
    for precision in dict.fromkeys(name for own in manifests for name in own.precisions):
        having = [i for i, own in enumerate(manifests) if precision in own.precisions]
        models = [load(folders[i], threads=threads, precision=precision) for i in having]
        tables = [predict(model, task, records) for model in models]
        log.info("%s is evaluated; now timed", precision)
        times = {batch: _timed(models, records, batch) for batch in BATCHES}
        for place, (i, table) in enumerate(zip(having, tables, strict=True)):
            if precision == manifests[i].precisions[0]:
                found[i].table = table
            found[i][precision] = Figures(
                metrics=task.score(table),
                ms={batch: own[place] for batch, own in times.items()},
                bytes=size(folders[i], precision),
                behaviour=_behaviour(models[place], task, tested),
            )
    return found


def _behaviour(model: Model, task: RunTask, tested: Tested | None) -> dict[str, float]:
    """Percent of cases that pass, by test."""
    if tested is None:
        return {}
    scores = agreement(model, task, tested.records, tested.tests.pairs)
    found = rates(tested.tests.judge(scores))
    return {name: rate for name, rate in found.items() if name not in (OVERALL, ACCEPTED)}


def size(folder: Path, precision: str) -> int:
    """Bytes of the graphs of a precision."""
    return sum(path.stat().st_size for path in (folder / precision).rglob("*.onnx"))


def _timed(models: Sequence[Model], records: Records, batch: int) -> list[float]:
    some = [records[i % len(records)] for i in range(batch)]
    return medians([main_call(model, some) for model in models])


def medians(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median milliseconds of each call; they take turns, in changing order.

    So what else the machine does meets all of them.
    """
    taken: list[list[float]] = [[] for _ in calls]
    order, began = list(range(len(calls))), time.perf_counter()
    for turn in range(-_WARM, _MOST):
        if turn >= _LEAST and time.perf_counter() - began > _SECONDS:
            break
        for i in order:
            start = time.perf_counter()
            calls[i]()
            if turn >= 0:
                taken[i].append(1000 * (time.perf_counter() - start))
        order.reverse()
    return [statistics.median(own) for own in taken]


def main_call(model: Model, records: Sequence[Record]) -> Callable[[], object]:
    """The call that a model of the kind is made for, on these records."""
    images, texts = [record.image for record in records], [record.captions[0] for record in records]
    return lambda: _CALLS[model.facts.kind](model, records, images, texts)


_Call = Callable[[Model, Sequence[Record], Sequence[bytes], Sequence[str]], object]
_CALLS: Mapping[str, _Call] = {
    "retrieval": lambda model, _, images, texts: cast(Matching, model).match(images, texts),
    "grounding": lambda model, _, images, texts: cast(Grounding, model).ground(images, texts),
    "vqa": lambda model, _, images, texts: cast(Answering, model).ask(images, texts),
    "entailment": lambda model, _, images, texts: cast(Entailing, model).entail(images, texts),
    "nlvr2": lambda model, records, images, texts: cast(Comparing, model).compare(
        images, [record.more[0] for record in records], texts
    ),
}
