"""Queues of the twin's features: candidates beyond the batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMPTY = -100
"""Id of a queue entry that no batch has filled yet."""


class FeatureQueue(nn.Module):
    """Image features, text features and image ids of the last ``size`` pairs, oldest overwritten.

    Entries start as random unit vectors with id :data:`EMPTY`, as in the original.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("image", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("text", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("ids", torch.full((size,), EMPTY, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor) -> None:
        """Overwrite the oldest entries with B new ones; B need not divide the size.

        Args:
            image_feat: (B, E) features of the twin.
            text_feat: (B, E) features of the twin.
            ids: (B,) image ids.
        """
        size = len(self.ids)
        if size == 0:
            return
        kept = slice(max(0, len(ids) - size), None)  # of a batch larger than the queue, the newest
        where = (self.pointer + torch.arange(len(ids), device=ids.device)[kept]) % size
        self.image[where] = image_feat[kept].to(self.image.dtype)
        self.text[where] = text_feat[kept].to(self.text.dtype)
        self.ids[where] = ids[kept]
        self.pointer.add_(len(ids)).remainder_(size)
