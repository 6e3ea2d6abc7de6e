from pathlib import Path

import pytest

from albef.cli import main
from tests.data.toy import picture

PARAMS = """
paths: {root: products, models: checkpoints}
tasks: {retrieval: {dataset: scenes}, broken: {}}
"""


def test_commands_name_runs_and_checkpoints_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.png").write_bytes(picture(0, (16, 16)))
    monkeypatch.chdir(tmp_path / "below")
    for arguments, sentence in (
        (["find", "a dog", "--run", "retreival"], "did you mean retrieval?"),
        (["find", "a dog", "--run", "broken"], "tasks.broken.dataset must be the name of a"),
        (["ask", "a.png", "what?", "--run", "retrieval"], "checkpoints/retrieval is not a"),
        (["ask", "b.png", "what?", "--run", "retrieval"], "below/b.png does not exist"),
        (["find", "a dog", "--run", "retrieval"], "products/data/scenes"),
        (["explain", "a.png", "what?", "--model", "other"], "other is not a checkpoint"),
        (["embed", ".", "--model", "other"], "other is not a checkpoint"),
    ):
        monkeypatch.chdir(tmp_path / "below")
        with pytest.raises(SystemExit) as end:
            main(arguments)
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert error.startswith(f"albef {arguments[0]}: ")
        assert sentence in error
        assert error.count("\n") == 1
