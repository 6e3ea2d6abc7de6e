"""Cases of public benchmarks, and their metrics over all cases and over groups.

Shapes: I images and T texts of a case.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from albef.data.image_decoding import ImageError
from albef.data.rejection import Rejection
from albef.ingest.sources.rows import Row
from albef.runtime.model import ImageInput

_REPORT_EVERY = 1000  # cases


@dataclass(frozen=True, slots=True)
class Case:
    """Images and texts that a model compares with each other."""

    row: Row
    """Row that the case comes from."""
    group: str
    """Category of the case, such as a relation."""
    images: tuple[ImageInput, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a model on a benchmark, in percent."""

    metrics: dict[str, float]
    """Metrics over all cases."""
    groups: dict[str, dict[str, float]]
    """Metrics over the cases of each group, and their number as ``cases``."""
    cases: int
    """Number of scored cases."""
    rejected: list[Rejection]
    """Rows that could not be scored."""


def judge_all(
    rows: Iterable[Case | Rejection], judge: Callable[[Case], Mapping[str, float]]
) -> Result:
    """Judge all cases by a function that returns metrics from 0 to 1; reject damaged images."""
    rejected: list[Rejection] = []
    judged: dict[str, list[Mapping[str, float]]] = {}
    for number, case in enumerate(rows, 1):
        if number % _REPORT_EVERY == 0:
            print(f"{number:,} cases", file=sys.stderr)
        if isinstance(case, Rejection):
            rejected.append(case)
            continue
        try:
            metrics = judge(case)
        except ImageError as error:
            rejected.append(case.row.rejection(error))
        else:
            judged.setdefault(case.group, []).append(metrics)
    groups = {name: {**_means(judged[name]), "cases": len(judged[name])} for name in sorted(judged)}
    every = [metrics for name in groups for metrics in judged[name]]
    return Result(_means(every), groups, len(every), rejected)


def _means(values: list[Mapping[str, float]]) -> dict[str, float]:
    names = values[0] if values else ()
    return {name: 100 * float(np.mean([each[name] for each in values])) for name in names}
