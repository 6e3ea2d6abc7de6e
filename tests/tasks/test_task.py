"""What all kinds of task share."""

import numpy as np
import pytest
import torch
from PIL import Image

from albef.preprocessing.transforms import normalised
from albef.tasks import task as tasks
from albef.tasks.task import to_device


@pytest.mark.parametrize("shape", [(2, 17, 23), (3, 2, 260, 180)])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("way", ["_by_rows", "_by_channel"])
def test_bytes_become_the_numbers_of_evaluation(
    shape: tuple[int, ...], planar: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_by_rows", getattr(tasks, way))  # a GPU has the other one
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pictures = pixels.reshape(-1, *pixels.shape[-3:])
    wanted = np.stack([normalised(Image.fromarray(picture)) for picture in pictures])
    given = torch.from_numpy(pixels).movedim(-1, -3)
    batch = {"image": given.contiguous() if planar else given, "ids": torch.tensor([1])}
    found = to_device(batch, torch.device("cpu"))
    assert torch.equal(found["image"].flatten(0, -4), torch.from_numpy(wanted))
    assert found["ids"].tolist() == [1]
