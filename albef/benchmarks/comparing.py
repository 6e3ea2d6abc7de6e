"""Cases of public benchmarks, each scored by ITC and by ITM, and what they share.

Shapes: I images and T texts of a case.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from albef.config import ParamsError
from albef.data.image_decoding import ImageError
from albef.data.rejection import Rejection
from albef.ingest.sources.rows import Row
from albef.runtime.matching import Matching
from albef.runtime.model import Floats, ImageInput

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

    metrics: Mapping[str, float]
    """Metrics over all cases."""
    groups: Mapping[str, Mapping[str, float]]
    """Metrics over the cases of each group, and their number as ``cases``."""
    cases: int
    """Number of scored cases."""
    rejected: list[Rejection]
    """Rows that could not be scored."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: where its files come from, and the function that runs it."""

    source: str
    """Address of the files."""
    licence: str
    """Licence of the files."""
    run: Callable[[Matching, Path, Path], Result]
    """Function of a model, the folder of the files, and the folder of the images."""


Judge = Callable[[Floats], Mapping[str, float]]
"""Function from scores (I, T) to metrics from 0 to 1."""


def compare(model: Matching, rows: Iterable[Case | Rejection], judge: Judge) -> Result:
    """Judge all cases by ITC and by ITM.

    ITC is the cosine similarity. ITM is the difference of its two logits, because probabilities
    close to 1 would be equal.
    """

    def judged(case: Case) -> dict[str, float]:
        return {
            f"{name}_{metric}": float(value)
            for name, score in _scores(model, case).items()
            for metric, value in judge(score).items()
        }

    return judge_all(rows, judged)


def judge_all(
    rows: Iterable[Case | Rejection], judge: Callable[[Case], dict[str, float]]
) -> Result:
    """Judge all cases by a function that returns metrics from 0 to 1; reject damaged images."""
    rejected: list[Rejection] = []
    judged: dict[str, list[dict[str, float]]] = {}
    for number, case in enumerate(rows, 1):
        if number % _REPORT_EVERY == 0:
            print(f"{number:,} cases", file=sys.stderr)
        if isinstance(case, Rejection):
            rejected.append(case)
            continue
        try:
            judged.setdefault(case.group, []).append(judge(case))
        except ImageError as error:
            rejected.append(case.row.rejection(error))
    judged = {name: judged[name] for name in sorted(judged) if judged[name]}
    groups = {name: {**_means(values), "cases": len(values)} for name, values in judged.items()}
    every = [values for group in judged.values() for values in group]
    return Result(_means(every), groups, len(every), rejected)


def _scores(model: Matching, case: Case) -> dict[str, Floats]:
    """Return the scores (I, T) of a case by ITM and by ITC."""
    image = model.encode_image(model.pixels(case.images))
    ids, mask = model.ids(case.texts)
    states, text_feat = model.encode_text(ids, mask)
    assert image.feat is not None  # as_matching has checked the kind
    logits = [
        model.score(states[None], mask[None], image.take([i]))[0] for i in range(len(case.images))
    ]
    differences = np.stack([each[:, 1] - each[:, 0] for each in logits])
    return {"itm": differences, "itc": image.feat @ text_feat.T}


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric in percent."""
    names = values[0] if values else ()
    return {name: 100 * float(np.mean([each[name] for each in values])) for name in names}


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        ParamsError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}; correct --data") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text: {error}") from None
