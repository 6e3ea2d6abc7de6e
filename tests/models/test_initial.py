"""Weights that a model starts with when it has no pre-trained ones."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import initialization

from albef.models.momentum import MomentumModel
from albef.models.text import TextEncoder
from albef.models.vision import ImageConfig, ImageEncoder, ViT
from tests.conftest import tiny_model


def test_a_vit_starts_with_timms_weights_for_any_version_of_torch() -> None:
    sizes = ImageConfig(image_size=32, patch_size=8, width=24, depth=2, heads=2)
    for ratio, config in (4, sizes), (2, sizes.model_copy(update={"intermediate": 48})):
        torch.manual_seed(0)
        ours = ViT(config).state_dict()
        torch.manual_seed(0)
        theirs = VisionTransformer(
            32, 8, embed_dim=24, depth=2, num_heads=2, num_classes=0, mlp_ratio=ratio
        )
        assert list(ours) == list(theirs.state_dict())
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours[name], tensor), name


def test_patches_start_by_looking_near_and_the_class_token_by_looking_everywhere() -> None:
    """By weights of attention in each block, between patches of noise."""
    torch.manual_seed(0)
    sizes = ImageConfig(image_size=64, patch_size=8, width=192, depth=4, heads=3)
    vit = ImageEncoder(sizes).vit
    images = torch.randn(1, 3, 8, 8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    places = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    distances = torch.cdist(places, places)
    with torch.no_grad():
        patches = vit.patch_embed(images)
        states = torch.cat([vit.cls_token, patches], dim=1) + vit.pos_embed
        for block in vit.blocks:
            normed = block.norm1(states)
            query, key, _ = block.attn.qkv(normed).view(1, 65, 3, sizes.heads, -1).unbind(2)
            scores = (
                torch.einsum("blhd,bnhd->bhln", query, key) * (sizes.width // sizes.heads) ** -0.5
            )
            weights = scores.softmax(dim=-1).mean(dim=(0, 1))
            states = block(states)
            looks = weights[1:, 1:] / weights[1:, 1:].sum(dim=1, keepdim=True)
            assert (looks * distances).sum(dim=1).mean() < 0.7 * distances.mean()
            assert weights[0, 0] < 0.2


def test_convolutions_start_with_states_as_large_as_those_of_a_linear_map() -> None:
    torch.manual_seed(0)
    linear = ImageConfig(image_size=64, patch_size=8, width=128, depth=1, heads=2)
    images = torch.randn(8, 3, 8, 8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    images[:, :, :, 32:] += torch.randn(8, 3, 64, 32) / 2
    sizes = []
    for config in (linear, linear.model_copy(update={"stem": "convolutions"})):
        states = ViT(config).patch_embed(images)
        assert states.shape == (8, 64, 128)
        sizes.append(states.square().mean().sqrt().item())
    assert 0.7 < sizes[1] / sizes[0] < 1.4


def test_convolutions_need_a_side_that_they_can_halve() -> None:
    with pytest.raises(ValueError, match=r"power of two.*patch_size 12"):
        ImageConfig(image_size=48, patch_size=12, width=24, depth=1, heads=2, stem="convolutions")


def test_a_token_starts_with_half_of_the_one_before_it() -> None:
    torch.manual_seed(0)
    width, heads = 48, 2
    sizes = tiny_model().text.model_copy(update={"width": width, "heads": heads})
    encoder = TextEncoder(sizes, 50)
    ids = torch.randint(1, 50, (64, 9))
    states, attention = encoder.embeddings(ids), encoder.layer[0].attention
    parts = attention.self
    query, key = parts.split(parts.query(states)), parts.split(parts.key(states))
    weights = (query @ key.mT / (width // heads) ** 0.5).softmax(dim=-1).mean(dim=(0, 1))
    assert torch.equal(weights[1:].argmax(dim=1), torch.arange(8))
    taken = attention.output.dense.weight @ parts.value.weight
    assert torch.equal(taken, torch.eye(width) / 2)


def test_a_text_encoder_without_memory_is_built_after_one_of_transformers_was_loaded() -> None:
    # If this is the first user of torch.device(), torch never notices torch.linspace again.
    with initialization.meta_device_safe_creation_ops(), torch.device("meta"):
        encoder = TextEncoder(tiny_model().text, 50)
    assert {p.device.type for p in encoder.parameters()} == {"meta"}


def test_patches_are_dropped_in_training_alone_and_never_the_class_token() -> None:
    encoder = ImageEncoder(tiny_model().image.model_copy(update={"image_size": 32})).train()
    assert encoder(torch.randn(2, 3, 32, 32)).shape[1] == 1 + 16
    encoder.drop_patches(0.25)
    images = torch.randn(2, 3, 32, 32)
    states = encoder(images)
    assert states.shape[1] == 1 + 12
    assert not torch.equal(states, encoder(images))  # others each time, from torch's generator
    assert encoder.eval()(images).shape[1] == 1 + 16
    assert MomentumModel(encoder).train()(images).shape[1] == 1 + 16
