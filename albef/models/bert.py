"""The BERT layer, with Hugging Face's parameter names so that its checkpoints load.

Post-LN; three LayerNorms of eps 1e-12 if the layer has cross-attention. Shapes: B batch, L text
tokens, N image tokens, D width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from albef.models.kernels import KeyValue, Layer, attend, rows


def attention_bias(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the additive bias (B, 1, 1, L) of a mask (B, L) in which 1 means attend.

    The value is -1e4 instead of the type's minimum: it is representable in 16 bits and never makes
    a row of NaN.
    """
    return (1.0 - mask[:, None, None, :].to(dtype)) * -1e4


class _Projections(nn.Module):
    """Query, key and value; ``attention.self`` in BERT's names."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def split(self, states: Tensor) -> Tensor:
        """Split (B, L, D) into heads (B, H, L, D / H)."""
        heads: Tensor = states.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)

    def key_value(self, states: Tensor) -> KeyValue:
        return self.split(self.key(states)), self.split(self.value(states))


class _Residual(nn.Module):
    """Dense, dropout, add, norm; ``attention.output`` and ``output`` in BERT's names."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        result: Tensor = self.LayerNorm(self.dropout(self.dense(states)) + residual)
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, source_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = _Projections(width, source_width, heads)
        self.output = _Residual(width, width, dropout)
        self.dropout = dropout

    def forward(self, states: Tensor, key_value: KeyValue, bias: Tensor | None) -> Tensor:
        query = self.self.split(self.self.query(states))
        attended = attend(query, *key_value, bias, self.dropout if self.training else 0.0)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2), states)
        return result


class _Intermediate(nn.Module):
    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, intermediate)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class BertLayer(Layer):
    """Self-attention, cross-attention if ``image_width`` is set, then the FFN."""

    def __init__(
        self, width: int, heads: int, intermediate: int, dropout: float, image_width: int | None
    ) -> None:
        super().__init__()
        self.attention = _Attention(width, width, heads, dropout)
        self.crossattention = (
            None if image_width is None else _Attention(width, image_width, heads, dropout)
        )
        self.intermediate = _Intermediate(width, intermediate)
        self.output = _Residual(intermediate, width, dropout)

    def image_key_value(self, image_states: Tensor) -> KeyValue:
        """Return keys and values of the image (B, N, D), shared by every pass that reads it."""
        assert self.crossattention is not None
        return self.crossattention.self.key_value(image_states)

    def compute(
        self,
        states: Tensor,
        bias: Tensor,
        image: KeyValue | None = None,
        positions: Tensor | slice | None = None,
        image_bias: Tensor | None = None,
        attended: bool = False,
    ) -> Tensor:
        """Compute the layer: (B, L, D) to (B, L, D), or to (B, M, D) with ``positions``.

        Args:
            states: (B, L, D).
            bias: additive, broadcastable to (B, 1, L, L).
            image: keys and values from :meth:`image_key_value`, for a layer with cross-attention.
                They may belong to fewer images than B. The first texts then read the first image,
                as many read the second, and so on; nothing is copied.
            positions: (B, M) rows whose states are returned, or M of each text. Only the queries
                are narrowed: the result equals those rows of the full one.
            image_bias: additive, (images, 1, 1, N); None attends to all tokens of ``image``.
            attended: whether ``states`` already come from :meth:`attend_to_text`.
        """
        if not attended:
            states = self._attend(states, bias, positions)
        elif positions is not None:
            states = rows(states, positions)
        if image is not None:
            assert self.crossattention is not None
            folded = _folded(states, image[0])
            states = self.crossattention(folded, image, image_bias).view_as(states)
        return self.feed_forward(states)

    def feed_forward(self, states: Tensor) -> Tensor:
        """Compute the last part of the layer: (B, L, D) to (B, L, D)."""
        result: Tensor = self.output(self.intermediate(states), states)
        return result

    def attend_to_text(self, states: Tensor, bias: Tensor) -> Tensor:
        """Compute the layer's self-attention alone: (B, L, D) to (B, L, D)."""
        return self._attend(states, bias)

    def _attend(
        self, states: Tensor, bias: Tensor, positions: Tensor | slice | None = None
    ) -> Tensor:
        # Split weights are freed after attend_to_text, so compute must not call it.
        key_value = self.attention.self.key_value(states)
        queried = states if positions is None else rows(states, positions)
        result: Tensor = self.attention(queried, key_value, bias)
        return result

    def cross_query(self, states: Tensor) -> Tensor:
        """Return the queries (B, H, L, D / H) to an image of states after self-attention."""
        assert self.crossattention is not None
        return self.crossattention.self.split(self.crossattention.self.query(states))

    def cross_weights(self, states: Tensor, bias: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (B, L, D) after self-attention, and weights (B, H, L, N) to an image.

        :meth:`forward` never materializes these weights of the cross-attention. If the keys
        (B, H, N, D / H) belong to fewer images, the texts of each image are concatenated in L.
        """
        states = self.attend_to_text(states, bias)
        query = self.cross_query(_folded(states, key))
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return states, scores.softmax(dim=-1)

    def cross_with(self, states: Tensor, weights: Tensor, value: Tensor) -> Tensor:
        """Compute the rest of the layer with given weights (B, H, L, N) of the image's values."""
        assert self.crossattention is not None
        attended = (weights @ value).transpose(1, 2).flatten(2).view_as(states)
        return self.feed_forward(self.crossattention.output(attended, states))


def _folded(states: Tensor, key: Tensor) -> Tensor:
    """Concatenate the texts of each image into one long text, which avoids a copy of the keys."""
    return states.reshape(key.shape[0], -1, states.shape[2])


def init_bert_weights(module: nn.Module, width: int) -> None:
    """Initialize a model of ``width`` like BERT: normal weights, zero biases, unit norms."""
    for submodule in module.modules():
        if isinstance(submodule, nn.Linear):
            nn.init.normal_(submodule.weight, std=0.02 * width_scale(width))
            nn.init.zeros_(submodule.bias)
        if isinstance(submodule, nn.Embedding):
            nn.init.normal_(submodule.weight, std=0.02)


def width_scale(width: int) -> float:
    """Return the factor of initial weights over the 0.02 that BERT and ViT use at width 768.

    With this factor a layer adds as much to its residual at any width. A narrow model that starts
    at 0.02 needs its first epochs to reach that scale.
    """
    return math.sqrt(768 / width)
