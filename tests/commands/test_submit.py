"""The submission file: written from predictions, and every way in which one is wrong."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.commands import submit as submission
from albef.commands.submit import SubmissionError, check_submission
from tests.data.toy import record, write


def entry(number: Any, answer: Any = "yes") -> dict[str, Any]:
    return {"question_id": number, "answer": answer}


def test_each_mistake_is_named() -> None:
    whole = [entry(1), entry(2, "two dogs"), entry("c")]
    for entries, *problems in (
        (whole,),
        ({"1": "yes"}, "Input should be a valid array"),
        ([entry(1), "yes"], "1: Input should be an object"),
        ([entry(1) | {"score": 1}], "0.score: Extra inputs are not permitted"),
        ([entry(True)], "0.question_id.int: Input should be a valid integer"),
        ([entry(1, 3)], "0.answer: Input should be a valid string"),
        ([entry(1, " ")], "0.answer: must not be blank"),
        (
            [*whole, *(entry(n) for n in range(10, 18))],
            "an answer that was not asked for, to question 10, 11, 12, 13, 14 and 3 more",
        ),
        (
            [entry(1), entry(1), entry(9)],
            "more than one answer to question 1",
            "no answer to question 2, c",
            "an answer that was not asked for, to question 9",
        ),
    ):
        assert check_submission(json.dumps(entries), [1, 2, "c"]) == problems


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A data set and the predictions of an evaluated run for its three questions."""
    asked = [record(i, split="test", meta={"question_id": 100 + i}) for i in range(3)]
    write(tmp_path / "questions", [*asked, record(9, split="val")])
    rows = {"split": ["test"] * 3, "question_id": [100, 101, 102], "answer": ["yes", "no", "ü"]}
    pq.write_table(pa.table(rows), tmp_path / "predictions.parquet")
    return tmp_path


def submit(project: Path, split: str = "test", check: str | None = None) -> None:
    submission.main(
        project / "questions",
        project / "predictions.parquet",
        split,
        project / "out.json",
        project / check if check else None,
    )


def test_it_is_written_and_passes_its_own_check(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(project)
    entries = json.loads((project / "out.json").read_text())
    assert entries == [entry(100), entry(101, "no"), entry(102, "ü")]
    submit(project, check="out.json")
    assert capsys.readouterr().out.count("an answer to each of the 3 questions") == 2


def test_a_wrong_file_is_named(project: Path) -> None:
    file = project / "mine.json"
    file.write_text(json.dumps([entry(100), entry(100), entry(5)]))
    with pytest.raises(SubmissionError) as error:
        submit(project, check="mine.json")
    assert [line.split(": ", 1)[1] for line in str(error.value).splitlines()] == [
        "more than one answer to question 100 (split test of questions)",
        "no answer to question 101, 102 (split test of questions)",
        "an answer that was not asked for, to question 5 (split test of questions)",
    ]
    file.write_text("[")
    with pytest.raises(SubmissionError, match=r"mine\.json: Invalid JSON"):
        submit(project, check="mine.json")


def test_a_run_that_cannot_hand_in_is_a_sentence(project: Path) -> None:
    with pytest.raises(SubmissionError, match=r"split val .* no record with a question_id"):
        submit(project, split="val")
    with pytest.raises(SubmissionError, match=r"has no split tets; did you mean test\?"):
        submit(project, split="tets")
    predictions = project / "predictions.parquet"
    pq.write_table(pa.table({"split": ["test"], "answer": ["yes"]}), predictions)
    with pytest.raises(SubmissionError, match="no column question_id"):
        submit(project)
    predictions.unlink()
    with pytest.raises(SubmissionError, match=r"predictions\.parquet is missing"):
        submit(project)
