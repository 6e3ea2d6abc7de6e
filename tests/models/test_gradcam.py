"""Grad-CAM against numbers of the original code, on its weights."""

import pytest
import torch
from torch import Tensor, nn

from albef.models.albef import ALBEF
from albef.models.gradcam import itc_maps, itm_maps
from tests import original as originals

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
