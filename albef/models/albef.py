"""ALBEF's three encoders and the projections into the shared space (ALBEF, section 3.1)."""

from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import Count, Section
from albef.models.bert import attention_bias
from albef.models.fusion import FusionEncoder, PairFusionEncoder
from albef.models.kernels import KeyValue
from albef.models.text import TextConfig, TextEncoder
from albef.models.vision import ImageConfig, ImageEncoder


class ModelConfig(Section):
    """Sizes of the model."""

    image: ImageConfig
    """Sizes of the image encoder."""
    text: TextConfig
    """Sizes of the text encoder and the fusion encoder."""
    embed_dim: Count
    """Width of the shared space of ``image_feat`` and ``text_feat``."""


def resized(config: ModelConfig, image_size: int) -> ModelConfig:
    """Return the sizes of the same model for images of another size."""
    image = config.image.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"image": image})


class ALBEF(nn.Module):
    """Image encoder, text encoder, fusion encoder and two projections; no heads.

    Shapes: B batch, N image tokens, L text tokens, D width (image and text may differ), E shared
    width.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config.image)
        self.text_encoder = TextEncoder(config.text, vocab_size)
        self.fusion_encoder = FusionEncoder(config.text, config.image.width)
        self.image_proj = nn.Linear(config.image.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)

    def freeze_projections(self) -> None:
        """Freeze the projections if no loss reads them.

        Every trainable parameter must take part in each loss.
        """
        for projection in (self.image_proj, self.text_proj):
            projection.requires_grad_(False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to ``image_states`` (B, N, D)."""
        states: Tensor = self.image_encoder(images)
        return states

    def encode_text(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Encode ids and mask (B, L) to ``text_states`` (B, L, D)."""
        states: Tensor = self.text_encoder(ids, attention_bias(text_mask))
        return states

    def image_feat(self, image_states: Tensor) -> Tensor:
        """Project (B, N, D) to unit vectors (B, E)."""
        return F.normalize(self.image_proj(image_states[:, 0]).float(), dim=-1)

    def text_feat(self, text_states: Tensor) -> Tensor:
        """Project (B, L, D) to unit vectors (B, E)."""
        return F.normalize(self.text_proj(text_states[:, 0]).float(), dim=-1)

    def fuse(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        image: list[KeyValue],
        positions: Tensor | slice | None = None,
    ) -> Tensor:
        """Return ``fused_states`` of texts and of images given by their keys and values."""
        states: Tensor = self.fusion_encoder(
            text_states, attention_bias(text_mask), image, positions
        )
        return states

    def fused_cls(self, text_states: Tensor, text_mask: Tensor, image: list[KeyValue]) -> Tensor:
        """Return the fused [CLS] state (B, D); the last layer computes only this row."""
        return self.fuse(text_states, text_mask, image, slice(0, 1))[:, 0]


class PairALBEF(ALBEF):
    """ALBEF with a doubled fusion encoder; text and image encoder are unchanged."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.fusion_encoder = PairFusionEncoder(config.text, config.image.width)
