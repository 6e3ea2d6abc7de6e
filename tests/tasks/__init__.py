"""What the tests of several kinds share."""

from typing import Any

import pytest
import torch

from albef.loading.reading import Batch
from albef.losses import itm
from albef.losses.mlm import IGNORED


@pytest.fixture
def argmax_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixtures were made with the most likely negative instead of a drawn one."""
    monkeypatch.setattr(itm, "draw", lambda weights, generator: weights.argmax(1))


def results(patch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """What a function of a module gives from now on, call by call."""
    found, function = [], getattr(module, name)

    def call(*given: Any) -> Any:
        found.append(function(*given))
        return found[-1]

    patch.setattr(module, name, call)
    return found


def random_batch(size: int, side: int, length: int, vocab: int, masked: int) -> Batch:
    """Texts of several lengths with at most ``masked`` masked tokens."""
    ids = torch.randint(5, vocab, (size, length))
    mask = torch.ones_like(ids)
    for row in range(size):
        mask[row, length - row % 3 :] = 0
    positions = torch.stack([torch.randperm(length - 3)[:masked] + 1 for _ in range(size)])
    labels = ids.gather(1, positions)
    labels[0, 1:] = IGNORED
    return {
        "image": torch.randn(size, 3, side, side),
        "ids": ids * mask,
        "text_mask": mask,
        "masked_ids": ids.scatter(1, positions, 4) * mask,
        "mlm_positions": positions,
        "mlm_labels": labels,
    }
