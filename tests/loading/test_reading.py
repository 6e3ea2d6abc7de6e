"""Pictures on the way to the model."""

import numpy as np
import torch
from PIL import Image

from albef.loading.reading import to_device
from albef.preprocessing.transforms import normalised


def test_bytes_become_the_numbers_of_evaluation() -> None:
    for shape in ((2, 17, 23, 3), (3, 2, 260, 180, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        pictures = pixels.reshape(-1, *shape[-3:])
        wanted = np.stack([normalised(Image.fromarray(picture)) for picture in pictures])
        interleaved = torch.from_numpy(pixels).movedim(-1, -3)
        for given in (interleaved, interleaved.contiguous()):
            batch = {"image": given, "ids": torch.tensor([1])}
            found = to_device(batch, torch.device("cpu"))
            assert torch.equal(found["image"].flatten(0, -4), torch.from_numpy(wanted))
            assert found["ids"].tolist() == [1]
