from pathlib import Path

import pytest

pytest.importorskip("accelerate")
from examples import transformers_trainer


def test_its_loss_falls(tmp_path: Path) -> None:
    losses = transformers_trainer.train(str(tmp_path))
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
