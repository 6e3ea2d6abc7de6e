"""What a stage's process is started with."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.process import Child

STAGE = "stages: {download: {cmd: 'echo bars: $HF_HUB_DISABLE_PROGRESS_BARS'}}\n"


@pytest.mark.parametrize(("own", "given"), [(None, "1"), ("0", "0")])
def test_a_stage_draws_no_progress_bar_into_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, given: str
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    if own is not None:
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", own)
    Repo.init(tmp_path, no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(STAGE)
    lines: list[str] = []
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert Child("repro", folder=tmp_path).follow(lines.append) == 0
    assert f"bars: {given}" in [line.strip() for line in lines]
