"""What waits is found, so that its absence in a step means something."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests import waits

VALUES = torch.arange(4.0, requires_grad=True)


WAITING: tuple[Callable[[Tensor], object], ...] = (
    lambda x: x.sum().item(),
    lambda x: float(x.sum()),
    lambda x: bool((x > 1).any()),
    lambda x: x.tolist(),
    lambda x: x.detach().numpy(),
    lambda x: (x > 1).nonzero(),
    lambda x: x[x > 1],
    lambda x: x.detach().clone().index_put_((x > 1,), torch.zeros(())),
    lambda x: x * torch.tensor([2.0]),
    lambda x: torch.multinomial(x.detach(), 1),
    lambda x: torch.nn.functional.one_hot(x.detach().long()),
    lambda x: x.register_hook(lambda grad: grad.nonzero()) and x.sum().backward(),
)


def test_what_waits_is_found() -> None:
    for waiting in WAITING:
        values = VALUES.clone()
        with pytest.raises(AssertionError, match="waits for the device"), waits.refused():
            waiting(values)


def test_what_does_not_wait_is_let_through() -> None:
    with waits.refused():
        index = VALUES.argmax(dim=0, keepdim=True)
        (torch.where(VALUES > 1, VALUES, 0)[index] + VALUES.new_zeros(1)).sum().backward()
