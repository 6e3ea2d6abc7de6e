"""What `make bench` times runs with the values that are shipped, and computes the same."""

from functools import partial
from pathlib import Path

import pytest
import torch

from albef.config import read_preset, validate
from albef.tasks.pretraining import Config
from albef.training.optim import OPTIMIZERS
from benchmarks import reference, step
from tests.tasks import argmax_draws as argmax_draws
from tests.tasks import test_pretraining_parity as parity

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_a_step_has_all_that_the_built_in_run_reads() -> None:
    values = read_preset(PARAMS)["pretrain"] | {"wpa": 0.0, "exchanged": []}
    config = validate(Config, values, where="params.yaml")
    batch = step._batch(config, 4, 8)
    fast = partial(step._fast, optimizer=OPTIMIZERS[config.optimizer])
    for way in (fast, step._plain):
        timed = way(step._task(config), batch, torch.float32)
        timed()
        assert all(len(seconds) == 1 for seconds in timed.seconds.values())


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
