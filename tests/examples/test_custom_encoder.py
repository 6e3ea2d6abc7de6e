from pathlib import Path

import pytest

from examples import custom_encoder


def test_it_is_trained_saved_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    custom_encoder.main(tmp_path)
    *steps, last = capsys.readouterr().out.splitlines()
    assert len(steps) == 2
    assert float(last.split()[-1]) < 1e-5
