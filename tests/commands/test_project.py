from pathlib import Path

import pytest

from albef.commands.project import Project
from albef.config import ParamsError
from tests.data.toy import picture

PARAMS = """
paths: {root: products, models: checkpoints}
tasks: {retrieval: {dataset: scenes}, broken: {}}
"""


def test_a_run_is_found_from_below_and_an_unknown_one_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    project = Project(tmp_path)
    assert project.dataset("retrieval") == tmp_path / "products/data/scenes"
    assert project.checkpoint("retrieval") == tmp_path / "checkpoints/retrieval"
    with pytest.raises(ParamsError, match=r"no run 'retreival' .* did you mean retrieval\?"):
        project.checkpoint("retreival")
    with pytest.raises(ParamsError, match=r"tasks\.broken\.dataset must be the name"):
        project.dataset("broken")


def test_commands_name_runs_and_checkpoints_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from albef.cli import main

    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.png").write_bytes(picture(0, (16, 16)))
    monkeypatch.chdir(tmp_path / "below")
    for arguments, sentence in (
        (["find", "a dog", "--run", "retreival"], "did you mean retrieval?"),
        (["ask", "a.png", "what?", "--run", "retrieval"], "retrieval is not a checkpoint"),
        (["ask", "b.png", "what?", "--run", "retrieval"], "below/b.png does not exist"),
        (["find", "a dog", "--run", "retrieval"], "products/data/scenes"),
        (["explain", "a.png", "what?", "--model", "other"], "other is not a checkpoint"),
        (["embed", ".", "--model", "other"], "other is not a checkpoint"),
    ):
        monkeypatch.chdir(tmp_path / "below")
        with pytest.raises(SystemExit) as end:
            main(arguments)
        error = capsys.readouterr().err
        assert end.value.code == 1
        assert error.startswith(f"albef {arguments[0]}: ")
        assert sentence in error
        assert error.count("\n") == 1
