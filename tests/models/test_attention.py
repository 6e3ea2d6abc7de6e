"""Attention as two products, and selecting by a product: the same numbers as the kernels."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from albef.models import kernels, vision
from albef.models.bert import attention_bias
from albef.models.kernels import attend, products_pay, select
from tests.conftest import tiny_model


def heads(*shape: int) -> Tensor:
    """As the layer makes them: heads are a view of the width."""
    batch, head, length, width = shape
    return torch.randn(batch, length, head, width).transpose(1, 2).requires_grad_()


def gradients(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad((result * torch.randn(result.shape)).sum(), inputs)


@pytest.mark.parametrize("biased", [True, False])
def test_products_give_what_the_kernel_gives(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(3, 2, 5, 4), heads(3, 2, 7, 4), heads(3, 2, 7, 4)
    mask = torch.ones(3, 7)
    mask[1, 4:] = 0
    bias = attention_bias(mask) if biased else None
    kernel = attend(query, key, value, bias, 0.0)
    expected = gradients(kernel, query, key, value)
    monkeypatch.setattr(kernels, "products_pay", lambda states: True)
    products = attend(query, key, value, bias, 0.0)
    torch.testing.assert_close(products, kernel)
    torch.testing.assert_close(gradients(products, query, key, value), expected)
    torch.manual_seed(0)
    dropped = attend(query, key, value, bias, 0.5)
    assert not torch.allclose(dropped, products)


def test_products_are_for_training_in_16_bits_on_a_processor() -> None:
    states = torch.zeros(1)
    assert not products_pay(states)
    with torch.autocast("cpu", torch.bfloat16):
        assert products_pay(states)
        assert not products_pay(states.to("meta"))
        with torch.no_grad():
            assert not products_pay(states)


def test_the_image_encoder_takes_products_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "UNFUSED_TOKENS", 1)
    encoder = vision.ImageEncoder(tiny_model().image)
    image = torch.randn(2, 3, 16, 16)
    calls = []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, **rest: calls.append(1) or v
    )
    with torch.autocast("cpu", torch.bfloat16):
        encoder(image)
        assert not calls
    assert all(block.attn.fused_attn for block in encoder.vit.blocks)  # as before
    encoder(image)
    assert len(calls) == len(encoder.vit.blocks)


def test_selecting_keys_and_values_is_exact_with_gradient_and_without() -> None:
    key, value = heads(4, 2, 5, 3), heads(4, 2, 5, 3)
    index = torch.tensor([2, 0, 2, 3, 1, 1])
    ((keys, values),) = select([(key, value)], index)
    assert torch.equal(keys, key[index])
    assert torch.equal(values, value[index])
    expected = gradients(key[index], key)
    torch.testing.assert_close(gradients(keys, key), expected)
    with torch.no_grad():
        ((keys, _),) = select([(key, value)], index)
    assert torch.equal(keys, key[index])
