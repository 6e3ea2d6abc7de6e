"""Candidate answers of a VQA run, taken from its train split or from a file."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from albef.config import ParamsError
from albef.data.shards import Shards
from albef.tasks.vqa_accuracy import normalised

FROM_TRAIN = "train"
"""Value of ``answer_list`` that selects the answers of the train split."""

log = logging.getLogger(__name__)


def answer_list(source: str, dataset: str, train: Shards | None) -> list[str]:
    """Return the list of answers.

    Answers of the train split are sorted by weight; equal weights are sorted alphabetically.

    Args:
        source: :data:`FROM_TRAIN`, or the path of a JSON file.
        dataset: name of the dataset, for error messages.
        train: train split of the dataset, if it has one.

    Raises:
        ParamsError: the train split is missing, or the file is wrong for it.
        ValueError: the train split has no answers.
    """
    weights = Counter[str]()  # Summed over the questions of the train split.
    for meta in train.metas.to_pylist() if train is not None else ():
        for answer, weight in (json.loads(meta).get("answers") or {}).items():
            weights[answer] += weight
    if source != FROM_TRAIN:
        listed = _read(Path(source))
        _check_coverage(source, listed, weights)
        return listed
    if train is None:
        raise ParamsError(
            f"answer_list: {FROM_TRAIN} needs a train split, which dataset {dataset} lacks; name a "
            "JSON file of answers"
        )
    if not weights:
        raise ValueError(
            f"{train.folder}, split {train.split}, has no answers; a VQA run needs a dataset of "
            "questions"
        )
    return sorted(weights, key=lambda answer: (-weights[answer], answer))


def _check_coverage(path: str, listed: Sequence[str], weights: Mapping[str, float]) -> None:
    """Warn if a list lacks some answers of the train split; refuse it if it lacks all."""
    covered = set(map(normalised, listed))
    missing = [answer for answer in weights if normalised(answer) not in covered]
    if not missing:
        return
    if len(missing) == len(weights):
        raise ParamsError(
            f"answer_list {path} has no answer of the train split (such as {missing[0]!r}); name "
            f"the list of this dataset, or {FROM_TRAIN}"
        )
    share = 100 * sum(weights[answer] for answer in missing) / sum(weights.values())
    log.warning(
        "answer_list %s lacks %d answers of the train split (%.1f %% by weight), such as %r; the "
        "model never gives them",
        *(path, len(missing), share, missing[0]),
    )


def _read(path: Path) -> list[str]:
    """Return the answers in a JSON file."""
    try:
        listed = json.loads(path.read_text())
    except OSError as error:
        raise ParamsError(f"answer_list {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ParamsError(f"answer_list {path} is not valid JSON: {error}") from None
    if not isinstance(listed, list) or not listed or not all(isinstance(a, str) for a in listed):
        raise ParamsError(f"answer_list {path} must be a list of texts")
    return listed
