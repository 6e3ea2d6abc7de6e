"""``albef ask`` on a tiny real checkpoint."""

from pathlib import Path

import pytest

from albef.commands import ask
from albef.config import ParamsError
from albef.data.image_decoding import ImageError
from albef.data.record import Record
from albef.models.weights import load_checkpoint
from albef.tasks.vqa import Task
from tests.conftest import tiny_config

QUESTION = "how many apples are there?"


@pytest.fixture
def checkpoint(tiny_checkpoints: dict[str, Path]) -> Path:
    return tiny_checkpoints["vqa"]


@pytest.fixture
def image(tmp_path: Path, pictures: list[bytes]) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(pictures[0])
    return path


def test_it_prints_answers_as_the_run_predicts_them(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.main(checkpoint, image, QUESTION, 3)
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    task = Task.restore(tiny_config("vqa"), load_checkpoint(checkpoint)).eval()
    record = Record("a", image.read_bytes(), (QUESTION,), 0, "test", "")
    table = task.predict([record], 1)
    assert [answer.strip() for answer, _ in lines] == table["top"][0][:3]
    shares = [float(share.rstrip("%")) for _, share in lines]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(100 * table["probability"][0], abs=0.06)


def test_what_is_wrong_is_one_sentence(
    checkpoint: Path, tiny_checkpoint: Path, image: Path
) -> None:
    with pytest.raises(ParamsError, match="question is empty"):
        ask.main(checkpoint, image, " ", 5)
    with pytest.raises(ParamsError, match="is of kind retrieval"):
        ask.main(tiny_checkpoint, image, "what?", 5)
    image.write_text("no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        ask.main(checkpoint, image, "what?", 5)
