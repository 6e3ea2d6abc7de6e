"""Pictures on the way to the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from albef.loading import reading
from albef.loading.reading import to_device
from albef.preprocessing.transforms import normalised


@pytest.mark.parametrize("shape", [(2, 17, 23), (3, 2, 260, 180)])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("way", ["_by_rows", "_by_channel"])
def test_bytes_become_the_numbers_of_evaluation(
    shape: tuple[int, ...], planar: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_by_rows", getattr(reading, way))  # a GPU has the other one
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pictures = pixels.reshape(-1, *pixels.shape[-3:])
    wanted = np.stack([normalised(Image.fromarray(picture)) for picture in pictures])
    given = torch.from_numpy(pixels).movedim(-1, -3)
    batch = {"image": given.contiguous() if planar else given, "ids": torch.tensor([1])}
    found = to_device(batch, torch.device("cpu"))
    assert torch.equal(found["image"].flatten(0, -4), torch.from_numpy(wanted))
    assert found["ids"].tolist() == [1]
