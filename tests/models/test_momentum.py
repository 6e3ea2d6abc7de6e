"""The momentum model and the queue."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from albef.models.momentum import EMPTY, FeatureQueue, MomentumModel


def test_the_momentum_model_has_no_dropout() -> None:
    parent = nn.Module()
    parent.momentum_model = MomentumModel(nn.Dropout(0.9))
    parent.train()
    assert torch.equal(parent.momentum_model(torch.ones(100)), torch.ones(100))


@given(size=st.integers(1, 7), batches=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_queue_holds_the_newest_pairs_for_any_batch(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 3)
    seen: list[int] = []
    for count in batches:
        ids = torch.arange(len(seen), len(seen) + count)
        feat = ids[:, None].float().expand(-1, 3)
        queue.enqueue(feat, -feat, ids)
        seen += ids.tolist()
    held = [i for i in queue.ids.tolist() if i != EMPTY]
    assert sorted(held) == seen[-size:]
    filled = queue.ids != EMPTY
    assert torch.equal(queue.image[filled][:, 0], queue.ids[filled].float())
    assert torch.equal(queue.text, torch.where(filled[:, None], -queue.image, queue.text))
    assert int(queue.pointer) == len(seen) % size
