"""Equal bytes from equal seeds, at the built-in size and with several threads."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from albef.config import read_yaml, validate
from albef.loading.reading import to_device
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import AugmentConfig, Transform
from albef.tasks.pretraining import Config, Task
from albef.training.optim import adamw
from pipelines.device_lock import device_of
from pipelines.stage import Stage
from tests.conftest import CAPTIONS, NEEDS_CUDA
from tests.data import toy
from tests.tasks.test_contract import stepped

ROOT = Path(__file__).parents[2]
BATCH = 8
AUGMENT = {"flip": False, "crop": [0.8, 1.0], "randaugment": 0}


def trained(device: str = "cpu") -> dict[str, torch.Tensor]:
    off = {"masked_groups": [], "exchanged": [], "exchanged_ranking": 0}
    values = read_yaml(ROOT / "params.yaml")["pretrain"] | off
    config = validate(Config, values, where="params.yaml")
    torch.manual_seed(4)
    task = Task(config, TextTokenizer.train(CAPTIONS, config.tokenizer.vocab_size)).to(device)
    optimizer = adamw(task, 1e-3, config.weight_decay)
    records = [toy.record(i) for i in range(BATCH)]
    augment = validate(AugmentConfig, AUGMENT, where="tests")
    collate = task.collate(Transform(augment, config.model.image.image_size))
    batch = to_device(collate(records, np.random.default_rng(0)), torch.device(device))
    for _ in range(2):  # the second step shows what differed in the first one's gradients
        optimizer.zero_grad()
        # A tensor that is made without a device would be on "meta" and raise an error.
        with torch.device("meta"), torch.autocast(device, torch.bfloat16):
            stepped(task, optimizer, batch)
    return task.state_dict()


def test_two_trainings_with_two_threads_are_equal() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    first, second = trained(), trained()
    torch.set_num_threads(before)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_trainings_that_are_to_be_deterministic_are_equal(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch refuses an operation that it cannot order."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.chdir(ROOT)
    stage = Stage("pretrain", "")
    asked = {"deterministic": True, "device": device, "threads": 0}
    stage.runtime = stage.runtime.model_copy(update=asked)
    device_of(stage)
    try:
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        first, second = trained(device), trained(device)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
