"""``albef submit``: the answers of a VQA run as the file that a challenge takes.

The file is a JSON list of ``{"question_id": ..., "answer": ...}``, one for every question of a
split. No torch.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.shards import read_index

_NAMED = 5  # ids in a sentence


class SubmissionError(ValueError):
    """A submission that cannot be made."""


def main(dataset: Path, predictions: Path, split: str, out: Path) -> None:
    """Write the submission of an evaluated run to ``out``.

    Raises:
        SubmissionError: the run has no answers to hand in, or not to all questions.
        ShardError: its data set is not there.
    """
    question_ids = read_question_ids(dataset, split)
    entries = read_predictions(predictions, split)
    answered = {entry["question_id"] for entry in entries}
    if missing := [n for n in question_ids if n not in answered]:
        named = ", ".join(map(str, missing[:_NAMED]))
        raise SubmissionError(
            f"{predictions} has no answer to {len(missing)} questions of split {split} of "
            f"{dataset.name}, as {named}: run the stage evaluate"
        )
    out.write_text(json.dumps(entries, indent=0, ensure_ascii=False) + "\n")
    print(f"{out}: an answer to each of the {len(question_ids)} questions of split {split}")


def read_question_ids(dataset: Path, split: str) -> list[int | str]:
    """Return the ids of all questions of a split.

    Raises:
        SubmissionError: it has none.
    """
    metas = map(json.loads, read_index(dataset, split, ["meta"])["meta"].to_pylist())
    ids = [meta["question_id"] for meta in metas if meta.get("question_id") is not None]
    if not ids:
        raise SubmissionError(f"{dataset} has no question with an id in split {split}")
    return ids


def read_predictions(path: Path, split: str) -> list[dict[str, Any]]:
    """Return the entries of a submission, from the predictions of an evaluated run."""
    if not path.is_file():
        raise SubmissionError(f"{path} is missing: run the stage evaluate, or dvc checkout")
    table = pq.read_table(path)
    if not {"question_id", "answer", "split"} <= set(table.column_names):
        raise SubmissionError(f"{path} has no question ids: its run answers no numbered questions")
    rows = table.filter(pc.equal(table["split"], split)).select(["question_id", "answer"])
    entries: list[dict[str, Any]] = rows.to_pylist()
    return entries
