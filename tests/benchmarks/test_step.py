"""What `make bench` times runs with the values that are shipped."""

from functools import partial
from pathlib import Path

import torch

from albef.config import read_preset, validate
from albef.tasks.pretraining import Config
from albef.training.optim import OPTIMIZERS
from benchmarks import step

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
