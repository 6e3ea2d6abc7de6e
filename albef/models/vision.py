"""The image encoder: timm's Vision Transformer, all tokens out."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from albef.config import Section

UNFUSED_TOKENS = 128
"""Up to here plain products of matrices are faster on a processor than its fused attention (1.2x
for a whole training step at 65 tokens in bfloat16), and their (N, N) weights are small."""


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
        if self.vit.pos_embed.shape[1] <= UNFUSED_TOKENS:
            for block in self.vit.blocks:
                block.attn.fused_attn = False

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to ``image_states`` (B, N, D), [CLS] first."""
        states: Tensor = self.vit.forward_features(images)
        return states
