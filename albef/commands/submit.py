"""``albef submit``: the answers of a VQA run as the file that a challenge takes, and its check.

The file is a JSON list of ``{"question_id": ..., "answer": ...}``, one for every question of a
split. No torch.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.shards import read_index

QuestionId = int | str
_NAMED = 5  # ids in a sentence


class SubmissionError(ValueError):
    """A submission that would be refused, or cannot be made; a sentence a line."""


def main(
    dataset: Path, predictions: Path, split: str, out: Path, check_file: Path | None = None
) -> None:
    """Write the submission of an evaluated run to ``out``, or check a file instead.

    Raises:
        SubmissionError: the file is wrong, or the run has no answers to hand in.
        ShardError: its data set is not there.
    """
    question_ids = read_question_ids(dataset, split)
    where = f"split {split} of {dataset.name}"
    path = check_file or out
    entries = read_submission(path) if check_file else read_predictions(predictions, split)
    if problems := check_submission(entries, question_ids):
        raise SubmissionError("\n".join(f"{path}: {problem} ({where})" for problem in problems))
    if not check_file:
        path.write_text(json.dumps(entries, indent=0, ensure_ascii=False) + "\n")
    print(f"{path}: an answer to each of the {len(question_ids)} questions ({where})")


def read_question_ids(dataset: Path, split: str) -> list[QuestionId]:
    """The ids of all questions of a split.

    Raises:
        SubmissionError: it has none.
    """
    metas = map(json.loads, read_index(dataset, split, ["meta"])["meta"].to_pylist())
    ids = [meta["question_id"] for meta in metas if meta.get("question_id") is not None]
    if not ids:
        raise SubmissionError(f"{dataset} has no question with an id in split {split}")
    return ids


def read_predictions(path: Path, split: str) -> list[dict[str, Any]]:
    """The entries of a submission, from the predictions of an evaluated run."""
    if not path.is_file():
        raise SubmissionError(f"{path} is missing: run the stage evaluate, or dvc checkout")
    table = pq.read_table(path)
    if not {"question_id", "answer", "split"} <= set(table.column_names):
        raise SubmissionError(f"{path} has no question ids: its run answers no numbered questions")
    rows = table.filter(pc.equal(table["split"], split)).select(["question_id", "answer"])
    entries: list[dict[str, Any]] = rows.to_pylist()
    return entries


def read_submission(path: Path) -> Any:
    """What a submission file holds, not yet checked."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise SubmissionError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SubmissionError(f"{path} is no JSON: {error}") from None


def check_submission(entries: Any, question_ids: Iterable[QuestionId]) -> list[str]:
    """What is wrong with the ``entries`` of a submission, a sentence each, where these
    ``question_ids`` were asked; nothing if it may be handed in."""
    if not isinstance(entries, list):
        return ["a submission is a list of answers, in square brackets"]
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != {"question_id", "answer"}:
            return [f"entry {index} must hold question_id and answer, and nothing else"]
        number, answer = entry["question_id"], entry["answer"]
        if not isinstance(number, int | str) or isinstance(number, bool):
            return [f"entry {index}: question_id must be a number or text, got {number!r}"]
        if not isinstance(answer, str) or not answer.strip():
            return [f"entry {index}: the answer to question {number} must be a text"]
    counts = Counter(entry["question_id"] for entry in entries)
    unique = dict.fromkeys(question_ids)
    problems = (
        ("more than one answer to", [n for n, times in counts.items() if times > 1], "keep one"),
        ("no answer to", [n for n in unique if n not in counts], "answer every question"),
        ("an answer to", [n for n in counts if n not in unique], "it was not asked, so remove it"),
    )
    return [f"{fault} {_format_questions(ids)}; {remedy}" for fault, ids, remedy in problems if ids]


def _format_questions(ids: list[QuestionId]) -> str:
    rest = f" and {len(ids) - _NAMED} more" if ids[_NAMED:] else ""
    return f"question {', '.join(map(str, ids[:_NAMED]))}{rest}"
