"""The momentum twin (ALBEF, section 3.3)."""

import copy
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class MomentumTwin(nn.Module, Generic[M]):
    """An exponential moving average of a module's parameters, without gradient.

    The twin stays in eval mode: its dropout is never on (a departure from the original code).
    """

    model: M

    def __init__(self, student: M) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.model.eval()

    def train(self, mode: bool = True) -> Self:
        """Keep eval mode, whatever the parent does."""
        self.training = False
        return self

    @torch.no_grad()
    def update(self, student: M, momentum: float) -> None:
        """``twin <- momentum * twin + (1 - momentum) * student``, all tensors in one call."""
        torch._foreach_lerp_(
            list(self.model.parameters()),
            [parameter.detach() for parameter in student.parameters()],
            1 - momentum,
        )

    @torch.no_grad()
    def copy_from(self, student: M) -> None:
        """Start the twin at the student."""
        for mine, theirs in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.copy_(theirs)

    def forward(self, *args: Tensor) -> Tensor:
        """The twin's output, without gradient."""
        with torch.no_grad():
            result: Tensor = self.model(*args)
            return result
