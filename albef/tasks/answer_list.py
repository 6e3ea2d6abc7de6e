"""Candidate answers of a VQA run, taken from its train split or from a file."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from albef.config import ParamsError
from albef.data.shards import Shards
from albef.tasks.vqa_accuracy import normalised

FROM_TRAIN = "train"
"""Value of ``answer_list`` that selects the answers of the train split."""

_ANSWERS = TypeAdapter(Annotated[list[str], Field(min_length=1, strict=True)])
log = logging.getLogger(__name__)


def answer_list(source: str, dataset: str, train: Shards | None) -> list[str]:
    """Return the list of answers in a JSON file, or :data:`FROM_TRAIN` those of the train split.

    These are sorted by weight; equal weights are sorted alphabetically.

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
        covered = set(map(normalised, listed))
        missing = [answer for answer in weights if normalised(answer) not in covered]
        if missing and len(missing) == len(weights):
            raise ParamsError(
                f"answer_list {source} has no answer of the train split (such as {missing[0]!r}); "
                f"name the list of this dataset, or {FROM_TRAIN}"
            )
        if missing:
            log.warning(
                "answer_list %s lacks %d of %d answers of the train split, such as %r; the model "
                "never gives them",
                *(source, len(missing), len(weights), missing[0]),
            )
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


def _read(path: Path) -> list[str]:
    try:
        return _ANSWERS.validate_json(path.read_bytes())
    except OSError as error:
        raise ParamsError(f"answer_list {path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise ParamsError(f"answer_list {path} must be a list of texts, in JSON") from None
