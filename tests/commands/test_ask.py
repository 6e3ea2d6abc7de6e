"""``albef ask`` on a tiny real checkpoint."""

from pathlib import Path

import pytest

import albef
from albef.cli import main
from tests.data.toy import picture
from tests.tasks.test_vqa import QUESTIONS, saved, task

PARAMS = """
paths: {root: products, models: models}
tasks: {vqa: {kind: vqa}, retrieval: {kind: retrieval}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    saved(tmp_path / "models" / "vqa", task())
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.png").write_bytes(picture(0, (16, 16)))
    (tmp_path / "here" / "b.png").write_text("no picture")
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_it_prints_answers_as_the_run_predicts_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["ask", "a.png", QUESTIONS[0].captions[0], "-k", "3"])
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    table = task().predict(QUESTIONS[:1], 1)
    answers = [line.rsplit(maxsplit=1)[0].strip() for line in lines]
    assert answers == table["top"][0][:3]
    shares = [float(line.rsplit(maxsplit=1)[1].rstrip("%")) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(100 * table["probability"][0], abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.png", "what?"], "there is no picture at"),
        (["b.png", "what?"], "b.png"),
        (["a.png", " "], "the question is empty"),
        (["a.png", "what?", "-k", "0"], "-k 0: at least one answer"),
        (["a.png", "what?", "--run", "vqq"], "no run 'vqq' under tasks; did you mean vqa?"),
        (["a.png", "what?", "--run", "retrieval"], "not of kind vqa, so it answers no questions"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["ask", *arguments])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("albef ask: ")
    assert message in told
    assert told.count("\n") == 1


def test_a_run_that_was_not_trained_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models" / "vqa" / "model.safetensors").unlink()
    with pytest.raises(SystemExit):
        main(["ask", "a.png", "what?"])
    assert "is no checkpoint: model.safetensors is missing" in capsys.readouterr().err


def test_several_questions_about_a_picture_are_answered_as_each_alone(project: Path) -> None:
    model = albef.load(project / "models" / "vqa")
    questions = [row.captions[0] for row in QUESTIONS]
    image = (project / "here" / "a.png").read_bytes()
    together = model.ask([image] * len(questions), questions)
    for question, answers in zip(questions, together, strict=True):
        (alone,) = model.ask([image], [question])
        assert [answer.text for answer in answers] == [answer.text for answer in alone]
