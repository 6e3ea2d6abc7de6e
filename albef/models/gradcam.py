"""Grad-CAM: where in the picture the model finds a text (ALBEF, section 6.2 and appendix).

Attention weights times their gradient, clamped at 0: of the ITM logit on the cross-attention of a
fusion layer, or of the ITC similarity on the self-attention of a ViT block. The normal passes hold
no weights; these compute them once more, for the one layer that is asked for.

Shapes: B batch, H heads, L text tokens, N image tokens, n = sqrt(N - 1) patches a side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.bert import BertLayer, attention_bias
from albef.models.kernels import KeyValue


class CrossAttention(NamedTuple):
    """The cross-attention of one fusion layer, and what ITM makes of it."""

    weights: Tensor
    """(B, H, L, N)."""
    gradient: Tensor
    """(B, H, L, N), of the logit of "match" by the weights."""
    logits: Tensor
    """(B, 2) of ITM."""


@torch.no_grad()
def cross_attention(
    model: ALBEF,
    itm_head: nn.Linear,
    text_states: Tensor,
    text_mask: Tensor,
    image: list[KeyValue],
    layer: int,
) -> CrossAttention:
    """Look into a fusion layer, from 0, while ITM judges B aligned texts (B, L, D) and images.

    In the last layer only the row of [CLS] has a gradient, since nothing after it mixes the text's
    tokens.

    Raises:
        ValueError: there is no such layer.
    """
    layers = [cast(BertLayer, block) for block in model.fusion_encoder.layer]
    if not 0 <= layer < len(layers):
        raise ValueError(f"layer {layer}: the fusion encoder has layers 0 to {len(layers) - 1}")
    bias = attention_bias(text_mask)
    states = text_states
    for index in range(layer):
        states = layers[index](states, bias, image[index])
    key, value = image[layer]
    states, weights = layers[layer].cross_weights(states, bias, key)
    with torch.enable_grad():
        states = layers[layer].cross_with(states, weights.requires_grad_(), value)
        for index in range(layer + 1, len(layers)):
            states = layers[index](states, bias, image[index])
        logits: Tensor = itm_head(states[:, 0])
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), weights)
    return CrossAttention(weights.detach(), gradient, logits.detach())


def itm_maps(
    model: ALBEF,
    itm_head: nn.Linear,
    text_states: Tensor,
    text_mask: Tensor,
    image_states: Tensor,
    layer: int,
    *,
    gradient: bool = True,
) -> Tensor:
    """Heat maps (B, L, n, n) of ITM, one for each token; rows of padding are 0.

    The map of a whole text is their mean over L. Without ``gradient`` they are the attention as it
    is, all that an export has. Other arguments as of :func:`cross_attention`, with
    ``image_states`` (B, N, D).
    """
    with torch.no_grad():
        image = model.fusion_encoder.image_key_values(image_states)
    attention = cross_attention(model, itm_head, text_states, text_mask, image, layer)
    factor = attention.gradient.clamp(min=0) if gradient else 1
    heat = (attention.weights * factor)[..., 1:].mean(1)
    return _square(heat * text_mask[:, :, None])


def itc_maps(
    model: ALBEF, images: Tensor, text_feat: Tensor, temperature: Tensor | float, block: int
) -> Tensor:
    """Heat maps (B, n, n) of ITC: the attention of [CLS] to the patches in a block of the ViT.

    Of images (B, 3, H, W) for texts (B, E); the temperature only scales the maps. Blocks are
    counted from 0.
    """
    module = model.image_encoder.vit.blocks[block].attn
    with torch.enable_grad(), _weights_of(module) as weights:
        image_feat = model.image_feat(model.encode_image(images))
        similarity = (image_feat * text_feat).sum() / temperature
        (gradient,) = torch.autograd.grad(similarity, weights)
    heat = weights[0].detach()[:, :, 0, 1:] * gradient[:, :, 0, 1:].clamp(min=0)
    return _square(heat.mean(1))


@contextmanager
def _weights_of(attention: nn.Module) -> Iterator[list[Tensor]]:
    """A list that a pass of timm's ``attention`` fills with its weights (B, H, N, N).

    They go through its dropout, which is no part of the fused attention.
    """
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: tuple[Tensor, ...], weights: Tensor) -> Tensor:
        captured.append(weights.detach().requires_grad_())
        return captured[-1]

    fused, attention.fused_attn = attention.fused_attn, False  # type: ignore[assignment]
    hook = cast(nn.Module, attention.attn_drop).register_forward_hook(capture)
    try:
        yield captured
    finally:
        hook.remove()
        attention.fused_attn = fused


def _square(heat: Tensor) -> Tensor:
    """(..., n * n) to (..., n, n)."""
    side = round(heat.shape[-1] ** 0.5)
    square: Tensor = heat.unflatten(-1, (side, side))
    return square
