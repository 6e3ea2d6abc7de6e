"""The image encoder: timm's Vision Transformer, which returns all tokens."""

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
    """Number of attention heads of a block."""


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
            # Queries and keys start equal, and positions start four times as large as embedded
            # patches. A patch then first attends to near and similar patches, and its state holds
            # content and position. Otherwise a state describes the whole image, any patch matches
            # a word (losses/wpa), and no word order is learned. [CLS] starts as a feature that
            # queries and keys ignore, with the length of a position. It therefore attends
            # everywhere in each block, instead of to itself from the second block on.
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
        """Drop a random share of the patches, only in train mode."""
        self.vit.patch_drop = PatchDropout(share)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalized images (B, 3, H, W) to ``image_states`` (B, N, D), [CLS] first.

        In training N is reduced by the patches of :meth:`drop_patches`.
        """
        with attention_as_products(self.vit) if products_pay(images) else contextlib.nullcontext():
            states: Tensor = self.vit.forward_features(images)
        return states


def sine_positions(grid: int, width: int) -> Tensor:
    """Return initial position embeddings (grid^2, D) of a model without pre-trained weights.

    They are sine and cosine of row and column, at wavelengths from 2 pi to 200 pi patches. Each has
    a quarter of the width; the remainder is zero. They are as large as the embedded patches. The
    usual start is noise of deviation 0.02. The patches then dominate, and a small model that is
    trained for minutes does not learn to distinguish left from above.
    """
    quarter = width // 4
    wave = torch.arange(grid)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    axis = torch.cat([wave.sin(), wave.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)
    positions = torch.zeros(grid * grid, width)
    positions[:, : 4 * quarter] = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return positions
