"""ALBEF's three encoders and the projections into the shared space (ALBEF, section 3.1)."""

from typing import Annotated, Any, Protocol, Self

import torch
from pydantic import Discriminator, Tag, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import OTHER, OWN, Count, Section, opt_in
from albef.models import encoders
from albef.models.bert import attention_bias
from albef.models.encoders import FusionConfig, TimmConfig, TransformersConfig
from albef.models.fusion import FusionEncoder, PairFusionEncoder
from albef.models.kernels import KeyValue
from albef.models.text import TextConfig, TextEncoder
from albef.models.vision import ImageConfig, ImageEncoder


def _library(key: str, other: type[Section]) -> Discriminator:
    """Return what decides that a section names an encoder of a library."""

    def tag(value: object) -> str:
        named = isinstance(value, dict) and key in value
        return OTHER if named or isinstance(value, other) else OWN

    return Discriminator(tag)


class ModelConfig(Section):
    """Encoders of the model and their sizes, as in ``pretrain.model``."""

    image: Annotated[
        Annotated[ImageConfig, Tag(OWN)] | Annotated[TimmConfig, Tag(OTHER)],
        _library("timm", TimmConfig),
    ]
    """Sizes of the image encoder, or an encoder of timm."""
    text: Annotated[
        Annotated[TextConfig, Tag(OWN)] | Annotated[TransformersConfig, Tag(OTHER)],
        _library("transformers", TransformersConfig),
    ]
    """Sizes of the text encoder and the fusion encoder, or a text encoder of transformers."""
    fusion: FusionConfig | None = opt_in(None)
    """Sizes of the fusion encoder if the text encoder is one of transformers."""
    embed_dim: Count
    """Width of the shared space of ``image_feat`` and ``text_feat``."""

    @model_validator(mode="after")
    def _check_fusion(self) -> Self:
        if self.fusion and isinstance(self.text, TextConfig):
            raise ValueError("fusion needs text.transformers; set text.fusion_depth instead")
        return self

    @property
    def fused(self) -> TextConfig:
        """Sizes of the fusion encoder, as those of a BERT."""
        if isinstance(self.text, TextConfig):
            return self.text
        fusion = self.fusion or FusionConfig()
        return TextConfig(
            width=fusion.width,
            depth=fusion.depth,
            fusion_depth=fusion.depth,
            heads=fusion.heads,
            intermediate=fusion.intermediate or 4 * fusion.width,
            max_positions=self.text.max_positions,
            dropout=fusion.dropout,
        )


def settled(config: ModelConfig) -> ModelConfig:
    """Return the values with the sizes that follow from the names of encoders.

    Raises:
        ValueError: an encoder is unknown, or not available locally or at its hub.
    """
    changed: dict[str, Any] = {}
    if isinstance(config.image, TimmConfig):
        from albef.models.encoders.timm_encoder import settled_image

        changed["image"] = settled_image(config.image)
    if isinstance(config.text, TransformersConfig):
        from albef.models.encoders.transformers_encoder import settled_text

        changed |= settled_text(config.text, config.fusion or FusionConfig())
    return config.model_copy(update=changed)


def resized(config: ModelConfig, image_size: int) -> ModelConfig:
    """Return the sizes of the same model for images of another size."""
    image = config.image.model_copy(update={"image_size": image_size})
    return config.model_copy(update={"image": image})


def build_image_encoder(config: ModelConfig) -> encoders.ImageEncoder:
    """Return the image encoder of settled values, with random weights."""
    if isinstance(config.image, ImageConfig):
        return ImageEncoder(config.image)
    # The imports of timm and of transformers take seconds.
    from albef.models.encoders.timm_encoder import TimmEncoder

    return TimmEncoder(config.image)


def build_text_encoder(config: ModelConfig, vocab_size: int) -> encoders.TextEncoder:
    """Return the text encoder of settled values, with random weights."""
    if isinstance(config.text, TextConfig):
        return TextEncoder(config.text, vocab_size)
    from albef.models.encoders.transformers_encoder import TransformersEncoder

    return TransformersEncoder(config.text, config.fusion or FusionConfig(), vocab_size)


class KnownTexts(Protocol):
    """Cache of the states of texts; see :class:`albef.loading.frozen.TextCache`."""

    def encode(self, encoder: encoders.TextEncoder, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Return the encoder's states (B, L, D) of ids and mask (B, L)."""


class ALBEF(nn.Module):
    """Image encoder, text encoder, fusion encoder and two projections, without heads.

    See ALBEF, section 3.1.

    Shapes: B batch, N image tokens, L text tokens, D width (image and text may differ), E shared
    width.

    Attributes:
        sizes: values that it was built with.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.sizes = config
        self.image_encoder = build_image_encoder(config)
        self.text_encoder = build_text_encoder(config, vocab_size)
        width, image_width = config.fused.width, self.image_encoder.width
        self.fusion_encoder = FusionEncoder(config.fused, image_width)
        self.image_proj = nn.Linear(image_width, config.embed_dim)
        self.text_proj = nn.Linear(width, config.embed_dim)
        is_equal = self.text_encoder.width == width
        self.text_adapter = nn.Identity() if is_equal else nn.Linear(self.text_encoder.width, width)
        self.projection_dropout = 0.0
        self.known_texts: KnownTexts | None = None

    def freeze_projections(self) -> None:
        """Freeze the projections if no loss reads them.

        Every trainable parameter must take part in each loss.
        """
        for projection in (self.image_proj, self.text_proj):
            projection.requires_grad_(False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) to ``image_states`` (B, N, D).

        Instead of images, it also takes what a cache holds of them, which is of type float16.
        """
        if images.dtype == torch.float16:
            return self.image_encoder.learning_part(images)
        states: Tensor = self.image_encoder(images)
        return states

    def encode_text(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """Encode ids and mask (B, L) to ``text_states`` (B, L, D)."""
        if self.known_texts is not None:
            states: Tensor = self.text_adapter(
                self.known_texts.encode(self.text_encoder, ids, text_mask)
            )
            return states
        return self.text_states(ids, attention_bias(text_mask))

    def text_states(self, ids: Tensor, bias: Tensor) -> Tensor:
        """Encode ids (B, L) and additive bias to ``text_states`` (B, L, D)."""
        states: Tensor = self.text_adapter(self.text_encoder(ids, bias))
        return states

    def image_feat(self, image_states: Tensor) -> Tensor:
        """Project (B, N, D) to unit vectors (B, E)."""
        return F.normalize(self.image_proj(self._dropped(image_states[:, 0])).float(), dim=-1)

    def text_feat(self, text_states: Tensor) -> Tensor:
        """Project (B, L, D) to unit vectors (B, E)."""
        return F.normalize(self.text_proj(self._dropped(text_states[:, 0])).float(), dim=-1)

    def _dropped(self, pooled: Tensor) -> Tensor:
        """Apply dropout to pooled states (B, D) in training, if there is any."""
        share = self.projection_dropout if self.training else 0.0
        return F.dropout(pooled, share) if share else pooled

    def begin_fusion(self, text_states: Tensor, text_mask: Tensor) -> Tensor:
        """Begin the fusion of texts (B, L, D): the part that is the same for all images."""
        return self.fusion_encoder.begin(text_states, attention_bias(text_mask))

    def fuse(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        image: list[KeyValue],
        positions: Tensor | slice | None = None,
        begun: bool = False,
    ) -> Tensor:
        """Return ``fused_states`` (B, L, D) of texts (B, L, D) and images, or (B, M, D).

        Args:
            text_states: (B, L, D) of :meth:`encode_text`.
            text_mask: (B, L); 1 = attend.
            image: keys and values of each layer, from ``fusion_encoder.image_key_values``.
            positions: (B, M) positions that the last layer computes, or a slice; None means all.
            begun: true if the texts come from :meth:`begin_fusion`.
        """
        bias = attention_bias(text_mask)
        states: Tensor = self.fusion_encoder(text_states, bias, image, positions, begun)
        return states

    def fused_cls(
        self, text_states: Tensor, text_mask: Tensor, image: list[KeyValue], begun: bool = False
    ) -> Tensor:
        """Return the fused [CLS] state (B, D); the last layer computes only this row."""
        return self.fuse(text_states, text_mask, image, slice(0, 1), begun)[:, 0]


class PairALBEF(ALBEF):
    """ALBEF with a doubled fusion encoder; text and image encoder are unchanged."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.fusion_encoder = PairFusionEncoder(config.fused, self.image_encoder.width)
