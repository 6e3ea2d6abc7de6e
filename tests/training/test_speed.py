"""Operations are counted once, and as executed."""

import pytest
import torch

from albef.training.speed import Speed, product_peak

CPU = torch.device("cpu")


def test_the_first_micro_batch_is_counted_forward_and_backward() -> None:
    speed = Speed(CPU, torch.float32)
    weight = torch.ones(8, 4, requires_grad=True)
    for rows in (3, 5):
        with speed.counted():
            (torch.ones(rows, 8) @ weight).sum().backward()
    assert speed.flops == 2 * (2 * 3 * 8 * 4)  # the product, and the weight's gradient
    speed.flops, speed.peak = 3 * 10**9, 4e12
    assert speed.at(100.0) == {"tflops": 0.3, "utilisation_percent": 7.5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_that_of_a_machine(dtype: torch.dtype) -> None:
    assert 1e8 < product_peak(CPU, dtype) < 1e15
