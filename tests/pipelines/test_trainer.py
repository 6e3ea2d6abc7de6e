"""What a training reads: cached states only if its images are the same in each epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from albef.data.shards import Shards
from albef.preprocessing.transforms import Transform
from pipelines import trainer
from tests.loading.test_frozen import BOTH, PARTS, Calls, both, frozen_task, runtime
from tests.loading.test_frozen import data as data


@pytest.mark.parametrize("parts", [BOTH, PARTS])
@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.5, 1.0)])
def test_augmented_images_are_encoded_and_those_of_val_read_from_the_cache(
    crop: tuple[float, float], parts: list[str], data: Path, tmp_path: Path
) -> None:
    keeps = crop == (1.0, 1.0)
    task = frozen_task(parts, augment={"flip": False, "crop": crop, "randaugment": 0})
    train, val = both(data)
    task.cache_frozen(runtime(tmp_path), [train, val] if keeps else [val])
    transform = trainer._transform(task, task.config)
    assert isinstance(transform, Transform) is not keeps
    batch = task.collate(transform)([train[i] for i in range(4)], np.random.default_rng(0))
    assert batch["image"].dtype == (torch.float16 if keeps else torch.uint8)
    calls = Calls(task)
    states = task.model.encode_image(task.pixels(batch["image"]))
    assert states.shape == (4, 5, 24)
    if parts == BOTH:
        assert calls.images == (0 if keeps else 4)
        task.predict(Shards(data, "val"), 4)
        assert calls.images == (0 if keeps else 4)
