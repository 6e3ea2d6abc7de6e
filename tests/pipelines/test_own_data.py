"""The values that depend on the number of images: steps enough, and batches that exist."""

from pathlib import Path

import pytest

from albef.config import read_preset, validate
from albef.tasks.pretraining import Config
from pipelines.own_data import BATCH, FUSED, SIZES, minutes, sized

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("images", [2, 3, 7, 100, 785, 1500, 1501, 4500, 4501, 6000, 300_000])
def test_a_training_has_the_steps_of_its_size(images: int) -> None:
    values = sized(images)
    batch, epochs = values["global_batch_size"], values["epochs"]
    assert 2 <= batch <= min(BATCH, images)
    by_epoch = images // batch  # whole batches
    steps = next(steps for most, _, steps in SIZES if images <= most)
    assert steps <= epochs * by_epoch < steps + by_epoch
    base = read_preset(ROOT / "presets/bases/own-data.yaml")["pretrain"]
    config = validate(Config, base | {"dataset": "own"} | values, where="preset")
    assert (config.epochs, config.micro_batch_size) == (epochs, batch)


def test_less_data_has_more_dropout_and_less_time() -> None:
    dropout = [sized(images)["projection_dropout"] for images in (100, 3000, 6000)]
    assert dropout == sorted(dropout, reverse=True)
    assert len(set(dropout)) == 3
    times = [minutes(images) for images in (100, FUSED - 1, FUSED, 6000)]
    assert times == sorted(times)
