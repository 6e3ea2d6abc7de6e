"""``albef submit``: the answers of a VQA run as the file that a challenge takes, and its check.

The file is a JSON list of ``{"question_id": ..., "answer": ...}``, one for every question of a
split. No torch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.config import ParamsError, read_yaml, validate
from albef.data.shards import read_index
from albef.layout import PARAMS, Layout, Paths

QuestionId = int | str
_NAMED = 5  # ids in a sentence


class SubmissionError(ValueError):
    """A submission that would be refused, or cannot be made; a sentence a line."""


def main(run: str, split: str, out: Path, file: Path | None = None) -> None:
    """Write the submission of an evaluated run, or check a file.

    Args:
        run: an entry of tasks.
        split: whose questions are answered.
        out: the file to write.
        file: checked instead, if it is given.

    Raises:
        ParamsError: no such run.
        SubmissionError: the file is wrong, or the run has no answers to hand in.
        ShardError: its data set is not there.
    """
    params = read_yaml(PARAMS)
    layout = Layout(validate(Paths, params.get("paths"), where=str(PARAMS), key="paths"))
    tasks: Any = params.get("tasks")
    entry = tasks.get(run) if isinstance(tasks, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("dataset"), str):
        raise ParamsError(f"{PARAMS} has no run {run!r} with a dataset under tasks")
    asked = question_ids(layout.data(entry["dataset"]), split)
    where = f"split {split} of {entry['dataset']}"
    path = file or out
    entries = read(path) if file else of_predictions(layout.predictions(run), split)
    if problems := check(entries, asked):
        raise SubmissionError("\n".join(f"{path}: {problem} ({where})" for problem in problems))
    if not file:
        path.write_text(json.dumps(entries, indent=0, ensure_ascii=False) + "\n")
    print(f"{path}: an answer to each of the {len(asked)} questions ({where})")


def question_ids(folder: Path, split: str) -> list[QuestionId]:
    """The ids of all questions of a split.

    Raises:
        SubmissionError: it has none.
    """
    metas = (json.loads(text) for text in read_index(folder, split, ["meta"])["meta"].to_pylist())
    found = [meta["question_id"] for meta in metas if meta.get("question_id") is not None]
    if not found:
        raise SubmissionError(f"{folder} has no question with an id in split {split}")
    return found


def of_predictions(path: Path, split: str) -> list[dict[str, Any]]:
    """The entries of a submission, from the predictions of an evaluated run."""
    if not path.is_file():
        raise SubmissionError(f"{path} is missing: run the stage evaluate, or dvc checkout")
    table = pq.read_table(path)
    if not {"question_id", "answer", "split"} <= set(table.column_names):
        raise SubmissionError(f"{path} has no question ids: its run answers no numbered questions")
    table = table.filter(pc.equal(table["split"], split))
    rows = zip(table["question_id"].to_pylist(), table["answer"].to_pylist(), strict=True)
    return [{"question_id": number, "answer": answer} for number, answer in rows]


def read(path: Path) -> Any:
    """What a submission file holds, not yet checked."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise SubmissionError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SubmissionError(f"{path} is no JSON: {error}") from None


def check(entries: Any, asked: Iterable[QuestionId]) -> list[str]:
    """What is wrong with a submission, a sentence each; nothing if it may be handed in.

    Args:
        entries: what the file holds.
        asked: the ids of all questions.
    """
    if not isinstance(entries, list):
        return ["a submission is a list of answers, in square brackets"]
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != {"question_id", "answer"}:
            return [f"entry {place} must hold question_id and answer, and nothing else"]
        number, answer = entry["question_id"], entry["answer"]
        if not isinstance(number, int | str) or isinstance(number, bool):
            return [f"entry {place}: question_id must be a number or text, got {number!r}"]
        if not isinstance(answer, str) or not answer.strip():
            return [f"entry {place}: the answer to question {number} must be a text"]
    counts = Counter(entry["question_id"] for entry in entries)
    wanted = dict.fromkeys(asked)
    found = (
        ("more than one answer to", [n for n, times in counts.items() if times > 1], "keep one"),
        ("no answer to", [n for n in wanted if n not in counts], "answer every question"),
        ("an answer to", [n for n in counts if n not in wanted], "it was not asked, so remove it"),
    )
    return [f"{what} {_questions(own)}; {remedy}" for what, own, remedy in found if own]


def _questions(numbers: Sequence[QuestionId]) -> str:
    shown = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if numbers[_NAMED:] else ""
    return f"question {shown}{more}"
