"""Grad-CAM against numbers of the original code, on its weights."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.gradcam import itc_maps, itm_maps
from tests import original as originals
from tests.conftest import tiny_task

FIXTURE = originals.fixture("grounding")
MASK = FIXTURE["inputs/attention_mask"]


@pytest.fixture(scope="module")
def original() -> tuple[ALBEF, nn.Linear, float]:
    task = nn.Module()
    task.model = ALBEF(originals.fine_tuned_sizes(image_size=48), 211)
    task.itm_head = nn.Linear(32, 2)
    task.temperature = nn.Parameter(torch.zeros(()))
    originals.load(task, "retrieval", FIXTURE)
    return task.eval().model, task.itm_head, task.temperature.item()


def encoded(model: ALBEF) -> tuple[Tensor, Tensor]:
    text_states = model.encode_text(FIXTURE["inputs/input_ids"], MASK)
    return text_states, model.encode_image(FIXTURE["inputs/image"])


def close(actual: Tensor, name: str, **tolerance: float) -> None:
    torch.testing.assert_close(actual, FIXTURE[name], **({"rtol": 1e-4, "atol": 1e-6} | tolerance))


@pytest.mark.parametrize("layer", [0, 1])
def test_itm_equals_the_original(original: tuple[ALBEF, nn.Linear, float], layer: int) -> None:
    model, head, _ = original
    text_states, image_states = encoded(model)
    name = f"itm_block{originals.TEXT_LAYERS + layer}"
    maps = itm_maps(model, head, text_states, MASK, image_states, layer)
    close(maps.mean(1), name, rtol=1e-3)
    assert FIXTURE[name].max() > 1e-5  # far above the tolerance
    assert not maps[MASK == 0].any()


def test_itc_equals_the_original(original: tuple[ALBEF, nn.Linear, float]) -> None:
    model, _, temperature = original
    block, attention = 1, model.image_encoder.vit.blocks[1].attn
    attention.fused_attn = True
    text_feat = model.text_feat(encoded(model)[0])
    maps = itc_maps(model, FIXTURE["inputs/image"], text_feat, temperature, block)
    close(maps, f"itc_block{block}", rtol=1e-3)
    assert FIXTURE[f"itc_block{block}"].max() > 1e-5
    assert attention.fused_attn
    assert not attention.attn_drop._forward_hooks


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_itm_equals_grad_cam_by_hand(layer: int, gradient: bool) -> None:
    """Text by text and head by head, without padding, in plain sums."""
    task = tiny_task()
    model, head = task.model, task.itm_head
    ids, mask = task.texts(["a dog left of an apple", "two apples", "three"])
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image_states = model.encode_image(images)
        text_states = model.encode_text(ids, mask)
    maps = itm_maps(model, head, text_states, mask, image_states, layer, gradient=gradient)
    assert maps.shape == (3, ids.shape[1], 2, 2)
    for number, length in enumerate(mask.sum(1).tolist()):
        image = image_states[number]
        states, weights = text_states[number, :length], []
        for block in model.fusion_encoder.layer:
            states, kept = by_hand(block, states, image)
            weights.append(kept)
        expected = torch.zeros(ids.shape[1], 2, 2)
        slopes = torch.autograd.grad(head(states[0])[1], weights[layer])
        for weight, slope in zip(weights[layer], slopes, strict=True):
            cam = weight * slope.clamp(min=0) if gradient else weight
            expected[:length] += cam[:, 1:].reshape(length, 2, 2) / len(weights[layer])
        torch.testing.assert_close(maps[number], expected.detach(), rtol=1e-4, atol=1e-6)
        assert not maps[number, length:].any()


def by_hand(block: Any, states: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A layer of fusion on one text (L, D) and image (N, D); also its weights to it, by head."""
    kept: list[Tensor] = []
    for attention, source in ((block.attention, states), (block.crossattention, image)):
        projections, heads = attention.self, []
        kept = []
        parts = (projections.query(states), projections.key(source), projections.value(source))
        for query, key, value in zip(*(p.chunk(projections.heads, 1) for p in parts), strict=True):
            kept.append(torch.softmax(query @ key.T / math.sqrt(query.shape[1]), dim=1))
            heads.append(kept[-1] @ value)
        output = attention.output
        states = output.LayerNorm(output.dense(torch.cat(heads, dim=1)) + states)
    wide = nn.functional.gelu(block.intermediate.dense(states))
    return block.output.LayerNorm(block.output.dense(wide) + states), kept
