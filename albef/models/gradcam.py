"""Grad-CAM: the image regions that the model uses for a text (ALBEF, section 6.2 and appendix).

A map is attention weights times their gradient, clamped at 0. The gradient is that of the ITM logit
on the cross-attention of a fusion layer, or that of the ITC similarity on the self-attention of a
ViT block. The normal passes keep no weights; these functions recompute them for one layer.

Shapes: B batch, H heads, L text tokens, N image tokens, n = sqrt(N - 1) patches per side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.bert import BertLayer, attention_bias


@torch.no_grad()
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
    """Return heat maps (B, L, n, n) of ITM, one for each token; rows of padding are 0.

    Texts (B, L, D) and images (B, N, D) are aligned; fusion layers are counted from 0. The map of a
    whole text is the mean over L. Without ``gradient`` the maps are the plain attention, as in an
    export. In the last layer only the row of [CLS] has a gradient, because no later layer mixes the
    text's tokens.
    """
    layers = [cast(BertLayer, block) for block in model.fusion_encoder.layer]
    image = model.fusion_encoder.image_key_values(image_states)
    bias, states = attention_bias(text_mask), text_states
    for index in range(layer):
        states = layers[index](states, bias, image[index])
    key, value = image[layer]
    states, weights = layers[layer].cross_weights(states, bias, key)  # (B, H, L, N)
    heat = weights
    if gradient:
        with torch.enable_grad():
            states = layers[layer].cross_with(states, weights.requires_grad_(), value)
            for index in range(layer + 1, len(layers)):
                states = layers[index](states, bias, image[index])
            (slope,) = torch.autograd.grad(itm_head(states[:, 0])[:, 1].sum(), weights)
        heat = weights.detach() * slope.clamp(min=0)
    return _square(heat[..., 1:].mean(1) * text_mask[:, :, None])


def itc_maps(
    model: ALBEF, images: Tensor, text_feat: Tensor, temperature: Tensor | float, block: int
) -> Tensor:
    """Return heat maps (B, n, n) of ITC: the attention of [CLS] to the patches in a ViT block.

    Images are (B, 3, H, W), texts (B, E). The temperature only scales the maps. Blocks are counted
    from 0.
    """
    patches = model.image_encoder.grid**2
    with torch.enable_grad(), _weights_of(model.image_encoder.attentions()[block]) as weights:
        image_feat = model.image_feat(model.encode_image(images))
        similarity = (image_feat * text_feat).sum() / temperature
        (gradient,) = torch.autograd.grad(similarity, weights)
    heat = (weights[0].detach() * gradient.clamp(min=0))[:, :, 0, -patches:]
    return _square(heat.mean(1))


@contextmanager
def _weights_of(attention: Any) -> Iterator[list[Tensor]]:
    """Yield a list that a pass of a block fills with its attention weights (B, H, T, T)."""
    captured: list[Tensor] = []

    def capture(_module: nn.Module, _inputs: tuple[Tensor, ...], weights: Tensor) -> Tensor:
        captured.append(weights.detach().requires_grad_())
        return captured[-1]

    fused, attention.fused_attn = attention.fused_attn, False
    hook = attention.attn_drop.register_forward_hook(capture)
    try:
        yield captured
    finally:
        hook.remove()
        attention.fused_attn = fused


def _square(heat: Tensor) -> Tensor:
    """Reshape (..., n * n) to (..., n, n)."""
    side = round(heat.shape[-1] ** 0.5)
    square: Tensor = heat.unflatten(-1, (side, side))
    return square
