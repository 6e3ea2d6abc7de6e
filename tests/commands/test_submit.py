"""The submission file, written from predictions."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.commands import submit as submission
from albef.commands.submit import SubmissionError
from tests.data.toy import record, write


def entry(number: Any, answer: Any = "yes") -> dict[str, Any]:
    return {"question_id": number, "answer": answer}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A data set and the predictions of an evaluated run for its three questions."""
    asked = [record(i, split="test", meta={"question_id": 100 + i}) for i in range(3)]
    write(tmp_path / "questions", [*asked, record(9, split="val")])
    rows = {"split": ["test"] * 3, "question_id": [100, 101, 102], "answer": ["yes", "no", "ü"]}
    pq.write_table(pa.table(rows), tmp_path / "predictions.parquet")
    return tmp_path


def submit(project: Path, split: str = "test") -> None:
    predictions, out = project / "predictions.parquet", project / "out.json"
    submission.main(project / "questions", predictions, split, out)


def test_every_question_has_its_answer(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(project)
    entries = json.loads((project / "out.json").read_text())
    assert entries == [entry(100), entry(101, "no"), entry(102, "ü")]
    assert "an answer to each of the 3 questions" in capsys.readouterr().out
    rows = {"split": ["test"], "question_id": [101], "answer": ["no"]}
    pq.write_table(pa.table(rows), project / "predictions.parquet")
    with pytest.raises(SubmissionError, match=r"no answer to 2 questions .*, as 100, 102: run the"):
        submit(project)


def test_a_run_that_cannot_hand_in_is_a_sentence(project: Path) -> None:
    with pytest.raises(SubmissionError, match="has no question with an id in split val"):
        submit(project, split="val")
    predictions = project / "predictions.parquet"
    pq.write_table(pa.table({"split": ["test"], "answer": ["yes"]}), predictions)
    with pytest.raises(SubmissionError, match="has no question ids"):
        submit(project)
    predictions.unlink()
    with pytest.raises(SubmissionError, match=r"predictions\.parquet is missing: run the stage"):
        submit(project)
