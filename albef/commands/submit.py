"""``albef submit``: write the answers of a VQA run as a challenge's submission, or check one.

The file is a JSON list of ``{"question_id": ..., "answer": ...}``, one for every question of a
split. No torch.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from albef.config import did_you_mean
from albef.data.shards import read_index

QuestionId = int | str
_NAMED = 5  # Maximum number of ids in an error message.


class SubmissionError(ValueError):
    """Error for a submission that is invalid or cannot be written, with one line per problem."""


def main(
    dataset: Path, predictions: Path, split: str, out: Path, check_file: Path | None = None
) -> None:
    """Write the submission of an evaluated run to ``out``, or check a file instead.

    Raises:
        SubmissionError: the file is invalid, or the run has no answers to submit.
        ShardError: the run's dataset is missing.
    """
    question_ids = read_question_ids(dataset, split)
    where, path = f"split {split} of {dataset.name}", check_file or out
    if check_file:
        text = check_file.read_text()
    else:
        text = json.dumps(read_predictions(predictions, split), indent=0, ensure_ascii=False) + "\n"
    if problems := check_submission(text, question_ids):
        raise SubmissionError("\n".join(f"{path}: {problem} ({where})" for problem in problems))
    if not check_file:
        path.write_text(text)
    print(f"{path}: has an answer to each of the {len(question_ids)} questions ({where})")


def read_question_ids(dataset: Path, split: str) -> list[QuestionId]:
    """Return the ids of all questions of a split; raise SubmissionError if there are none."""
    index = read_index(dataset, columns=["split", "meta"])
    splits = sorted(pc.unique(index["split"]).to_pylist())
    if split not in splits:
        hint = did_you_mean(split, splits)
        raise SubmissionError(f"--split: {dataset} has no split {split}{hint}")
    metas = map(json.loads, index.filter(pc.equal(index["split"], split))["meta"].to_pylist())
    ids = [meta["question_id"] for meta in metas if meta.get("question_id") is not None]
    if not ids:
        raise SubmissionError(
            f"split {split} of {dataset} has no record with a question_id; name a run of "
            "kind vqa with --run, or another split"
        )
    return ids


def read_predictions(path: Path, split: str) -> list[dict[str, Any]]:
    """Return the entries of a submission, from the predictions of an evaluated run."""
    if not path.is_file():
        raise SubmissionError(f"{path} is missing; run `albef run` or `dvc checkout`")
    table = pq.read_table(path)
    if not {"question_id", "answer", "split"} <= set(table.column_names):
        raise SubmissionError(f"{path} has no column question_id; use a run of kind vqa")
    rows = table.filter(pc.equal(table["split"], split)).select(["question_id", "answer"])
    entries: list[dict[str, Any]] = rows.to_pylist()
    return entries


class Entry(BaseModel):
    """An answer in a submission."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question_id: int | str
    answer: Annotated[str, StringConstraints(pattern=r"\S")]


_ENTRIES = TypeAdapter(list[Entry])


def check_submission(text: str, question_ids: Iterable[QuestionId]) -> list[str]:
    """Return the problems of a JSON submission to these questions; empty if it is valid."""
    try:
        counts = Counter(entry.question_id for entry in _ENTRIES.validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        is_blank = first["type"] == "string_pattern_mismatch"
        message = "must not be blank" if is_blank else first["msg"]
        return [f"{'.'.join(map(str, first['loc']))}: {message}".removeprefix(": ")]
    unique = dict.fromkeys(question_ids)
    problems = {
        "more than one answer to": [n for n, times in counts.items() if times > 1],
        "no answer to": [n for n in unique if n not in counts],
        "an answer that was not asked for, to": [n for n in counts if n not in unique],
    }
    return [f"{fault} {_format_questions(ids)}" for fault, ids in problems.items() if ids]


def _format_questions(ids: list[QuestionId]) -> str:
    rest = f" and {len(ids) - _NAMED} more" if ids[_NAMED:] else ""
    return f"question {', '.join(map(str, ids[:_NAMED]))}{rest}"
