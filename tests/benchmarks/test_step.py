"""What `make bench` times runs with the values that are shipped, and computes the same."""

from pathlib import Path

import pytest
import torch

from benchmarks import reference
from tests.tasks import argmax_draws as argmax_draws
from tests.tasks import test_pretraining_parity as parity

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_the_plain_step_has_the_losses_of_the_fast_one(
    argmax_draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(sim: torch.Tensor) -> list[int]:
        return [int(row.argmax()) for row in sim.softmax(1).fill_diagonal_(0)]

    monkeypatch.setattr(reference, "_drawn", drawn)
    task, batch = parity.original_task(0.4), parity.batch()
    fast, plain = task(batch, 1.0), reference.losses(task, batch, 1.0)
    for name in ("loss", "itc", "itm", "mlm"):
        torch.testing.assert_close(plain[name], fast[name], msg=name)
