"""The text half of BERT: embeddings, the first layers, and the MLM head."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from albef.config import Count, CountOrZero, Section, Share
from albef.models import encoders
from albef.models.bert import BertLayer, init_bert_weights
from albef.models.kernels import narrowed


class TextConfig(Section):
    """Sizes of text and fusion encoder together; BERT-base is 768, 12, 6, 12, 3072, 512."""

    width: Count
    """Width of the text and fused states."""
    depth: Count
    """Number of layers of text and fusion encoder together."""
    fusion_depth: CountOrZero
    """Number of these layers, counted from the end, that form the fusion encoder."""
    heads: Count
    """Number of attention heads of a layer."""
    intermediate: Count
    """Hidden width of the feed-forward network."""
    max_positions: Count
    """Maximum length of a text, in tokens."""
    dropout: Share
    """Dropout of states and attention."""


class Embeddings(nn.Module):
    """Word, position and (single) type embeddings, with BERT's names."""

    def __init__(self, config: TextConfig, vocab_size: int, pad_id: int = 0) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, config.width, padding_idx=pad_id)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.token_type_embeddings = nn.Embedding(2, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed token ids (B, L) to (B, L, D); ``positions`` (B, L) default to those of a text."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        summed = (
            self.word_embeddings(ids)
            + self.position_embeddings(positions)
            + self.token_type_embeddings.weight[0]
        )
        result: Tensor = self.dropout(self.LayerNorm(narrowed(summed)))
        return result


class TextEncoder(encoders.TextEncoder):
    """Embeddings and the layers before fusion, bidirectional."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__()
        self.width = config.width
        self.embeddings = Embeddings(config, vocab_size)
        self.layer = nn.ModuleList(
            BertLayer(config.width, config.heads, config.intermediate, config.dropout, None)
            for _ in range(config.depth - config.fusion_depth)
        )
        init_bert_weights(self, config.width)
        if self.layer:
            self._look_back(config)

    @torch.no_grad()
    def _look_back(self, config: TextConfig) -> None:
        """Initialize the first layer so that a token receives half of the token before it.

        In "a key left of a turtle", "left" then asks the image for the key, not for both objects
        equally. The model can then learn which of the two is on the left. Positions start as
        angles, as large as words, which turn by 0.8 to 2.8 per token. Queries turn them back by one
        token.
        """
        attention: Any = self.layer[0].attention
        width, size = config.width, config.width // config.heads
        positions = self.embeddings.position_embeddings.weight
        # Loading an encoder of transformers first can make torch.linspace ignore torch.device().
        turn = torch.linspace(0.8, 2.8, size // 2, device=positions.device)
        angles = torch.arange(config.max_positions)[:, None] * turn
        turned = torch.cat([angles.sin(), angles.cos()], 1)
        positions[:, : turned.shape[1]] = 0.02 * math.sqrt(2) * turned
        cos, sin = turn.cos().diag(), turn.sin().diag()
        back = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
        projections = attention.self
        for linear, start in ((projections.key, torch.eye(len(back))), (projections.query, back)):
            padded = F.pad(start, (0, width - len(back), 0, size - len(back)))
            linear.weight.copy_(padded.repeat(config.heads, 1))
        projections.value.weight.copy_(torch.eye(width))
        attention.output.dense.weight.copy_(torch.eye(width) / 2)

    @property
    def words(self) -> Tensor:
        """Return the word embeddings (V, D)."""
        return self.embeddings.word_embeddings.weight

    def forward(self, ids: Tensor, bias: Tensor) -> Tensor:
        """Encode token ids (B, L) and additive bias to ``text_states`` (B, L, D)."""
        states: Tensor = self.embeddings(ids)
        for layer in self.layer:
            states = layer(states, bias)
        return states


class MLMHead(nn.Module):
    """Dense, GELU, LayerNorm, then the word embeddings transposed, plus a bias.

    It is the head of MLM (ALBEF, section 3.2).

    ``words`` is the width of the word embeddings, if it is not that of the states.
    """

    def __init__(self, width: int, vocab_size: int, words: int | None = None) -> None:
        super().__init__()
        words = words or width
        self.dense = nn.Linear(width, words)
        self.LayerNorm = nn.LayerNorm(words, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        init_bert_weights(self, width)

    def forward(self, states: Tensor, word_embeddings: Tensor) -> Tensor:
        """Map states (..., D) and the tied table (V, W) to logits (..., V)."""
        return F.linear(self.LayerNorm(F.gelu(self.dense(states))), word_embeddings, self.bias)
