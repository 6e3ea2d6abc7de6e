"""The momentum model, and the queue of its features (ALBEF, section 3.3)."""

import copy
from collections.abc import Iterable
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)
EMPTY = -100
"""Id of a queue entry that no batch has filled yet."""


class MomentumModel(nn.Module, Generic[M]):
    """Exponential moving average of a module's parameters, without gradient (ALBEF, section 3.2).

    It stays in eval mode, so its dropout is never on. This differs from the original code. It
    shares the parameters in ``shared`` with the student, instead of averaging a copy of them.
    """

    model: M

    def __init__(self, student: M, shared: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        alike = {id(parameter): parameter for parameter in shared}
        self.model = copy.deepcopy(student, alike).requires_grad_(False)
        self.model.eval()

    def train(self, mode: bool = True) -> Self:
        """Keep eval mode, regardless of the parent's mode."""
        self.training = False
        return self

    @torch.no_grad()
    def update(self, student: M, momentum: float) -> None:
        """Update each tensor to ``momentum * mine + (1 - momentum) * student``, all in one call."""
        pairs = zip(self.model.parameters(), student.parameters(), strict=True)
        mine, theirs = zip(*((m, s.detach()) for m, s in pairs if m is not s), strict=True)
        torch._foreach_lerp_(mine, theirs, 1 - momentum)

    @torch.no_grad()
    def copy_from(self, student: M) -> None:
        """Copy the student's parameters and buffers."""
        for mine, theirs in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.copy_(theirs)
        for buffer, its in zip(self.model.buffers(), student.buffers(), strict=True):
            buffer.copy_(its)

    def forward(self, *args: Tensor) -> Tensor:
        """Return the momentum model's output, without gradient."""
        with torch.no_grad():
            result: Tensor = self.model(*args)
            return result


class FeatureQueue(nn.Module):
    """Image features, text features and ids of the last ``size`` pairs; the oldest are overwritten.

    They are further candidates of ITC (ALBEF, section 3.2).

    Entries start as random unit vectors with id :data:`EMPTY`, as in the original. A pair has
    ``ids`` ids.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int, ids: int = 1) -> None:
        super().__init__()
        shape = (size,) if ids == 1 else (size, ids)
        self.register_buffer("image", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("text", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("ids", torch.full(shape, EMPTY, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor) -> None:
        """Overwrite the oldest entries with momentum features (B, E) and ids (B,) or (B, n).

        B need not divide the size.
        """
        size = len(self.ids)
        if size == 0:
            return
        tail = slice(max(0, len(ids) - size), None)  # newest of a batch larger than the queue
        where = (self.pointer + torch.arange(len(ids), device=ids.device)[tail]) % size
        self.image[where] = image_feat[tail].to(self.image.dtype)
        self.text[where] = text_feat[tail].to(self.text.dtype)
        self.ids[where] = ids[tail]
        self.pointer.add_(len(ids)).remainder_(size)
