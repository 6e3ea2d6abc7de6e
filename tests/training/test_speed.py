"""Operations are counted once, and as executed."""

from unittest import mock

import torch

from albef.training.speed import Speed

CPU = torch.device("cpu")


def test_the_first_micro_batch_is_counted_forward_and_backward() -> None:
    speed = Speed(CPU, torch.float32)
    weight = torch.ones(8, 4, requires_grad=True)
    for rows in (3, 5):
        with speed.counted():
            (torch.ones(rows, 8) @ weight).sum().backward()
    assert speed.flops == 2 * (2 * 3 * 8 * 4)  # the product, and the weight's gradient
    assert 1e8 < speed.peak < 1e15
    speed.flops, speed.peak = 3 * 10**9, 4e12
    with mock.patch.object(Speed, "seconds", 2.0):
        assert {"tflops": 0.3, "utilisation_percent": 7.5}.items() <= speed.usage(200).items()
        assert speed.rates(50)["samples_per_second"] == 25.0
