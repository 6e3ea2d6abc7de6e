"""The image encoder: timm's Vision Transformer, all tokens out."""

import contextlib
import math

import torch
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from albef.config import Section
from albef.models.bert import width_scale
from albef.models.kernels import UNFUSED_TOKENS, attention_as_products, products_pay


class ImageConfig(Section):
    """Sizes of the image encoder; ViT-B/16 is 16, 768, 12, 12."""

    image_size: int
    """Side of the square image, in pixels."""
    patch_size: int
    """Side of a patch, in pixels."""
    width: int
    """Width of the image states."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads of a block."""


class ImageEncoder(nn.Module):
    """A ViT with [CLS] and final norm (LayerNorm eps 1e-6, exact GELU)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        if config.image_size % config.patch_size:
            raise ValueError(
                f"image_size {config.image_size} is not a multiple of patch_size "
                f"{config.patch_size}"
            )
        self.vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
            global_pool="",
        )
        with torch.no_grad():
            for submodule in self.vit.blocks.modules():
                if isinstance(submodule, nn.Linear):
                    submodule.weight.mul_(width_scale(config.width))
            # Queries and keys start equal and positions four times as large as embedded patches, so
            # that a patch first looks at what is near and alike, and its state says what is there
            # and where. Else it tells the whole picture, any patch will do for a word (losses/wpa),
            # and no order is learned. [CLS] starts as a feature that queries and keys leave out, as
            # long as a position, and so looks everywhere, and in each block: else it would look at
            # itself from the second one on.
            alike = 2 * torch.eye(config.width)
            alike[0, 0] = 0
            for block in self.vit.blocks:
                block.attn.qkv.weight[: 2 * config.width] = alike.repeat(2, 1)
            grid = config.image_size // config.patch_size
            self.vit.pos_embed[0, 0] = 0
            self.vit.pos_embed[0, 0, 0] = 4 * math.ceil(math.sqrt(config.width / 2))
            self.vit.pos_embed[0, 1:] = 4 * sine_positions(grid, config.width)
        if self.vit.pos_embed.shape[1] <= UNFUSED_TOKENS:
            for block in self.vit.blocks:
                block.attn.fused_attn = False

    def drop_patches(self, share: float) -> None:
        """Leave out a random share of the patches in training, in train mode alone."""
        self.vit.patch_drop = PatchDropout(share)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to ``image_states`` (B, N, D), [CLS] first.

        In training N is less by the patches of :meth:`drop_patches`.
        """
        with attention_as_products(self.vit) if products_pay(images) else contextlib.nullcontext():
            states: Tensor = self.vit.forward_features(images)
        return states


def sine_positions(grid: int, width: int) -> Tensor:
    """Where a model without pre-trained weights starts its position embeddings: (grid^2, D).

    Sine and cosine of row and column, a quarter of the width each (what is left of it is zero),
    at wavelengths from 2 pi to 200 pi patches. They are as large as the embedded patches. Noise of
    deviation 0.02, the usual start, is drowned by them: a small model that is trained for minutes
    then never tells left from above.
    """
    quarter = width // 4
    wave = torch.arange(grid)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    axis = torch.cat([wave.sin(), wave.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    positions = torch.zeros(grid * grid, width)
    positions[:, : 4 * quarter] = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return positions
