"""The fusion half of BERT: text states attend to the image, layer by layer."""

import torch
from torch import Tensor, nn

from albef.models.bert import BertLayer, KeyValue, init_bert_weights
from albef.models.text import TextConfig


class FusionEncoder(nn.Module):
    """The last ``fusion_depth`` layers, each with cross-attention; no embedding, no final norm."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            BertLayer(config.width, config.heads, config.intermediate, config.dropout, image_width)
            for _ in range(config.fusion_depth)
        )
        init_bert_weights(self, config.width)

    def image_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Keys and values of the image (B, N, D) for every layer, computed once."""
        return [layer.image_key_value(image_states) for layer in self.layer]  # type: ignore[operator]

    def forward(
        self,
        text_states: Tensor,
        bias: Tensor,
        image: list[KeyValue],
        positions: Tensor | slice | None = None,
    ) -> Tensor:
        """Fuse text with image.

        Args:
            text_states: (B, L, D).
            bias: additive, from the text mask.
            image: keys and values of B images, one pair a layer.
            positions: (B, M) rows wanted of the last layer, or M of each text; None means all.

        Returns:
            ``fused_states`` (B, L, D) or (B, M, D).
        """
        states = text_states
        last = len(self.layer) - 1
        for index, layer in enumerate(self.layer):
            states = layer(states, bias, image[index], positions if index == last else None)
        return states


def select(image: list[KeyValue], index: Tensor) -> list[KeyValue]:
    """The keys and values of the images at ``index`` (P,), one pair a layer.

    Where they are differentiated it is a product with rows of 0 and 1: exact too, its backward is
    another product, in a fixed order, and on a CPU faster than adding row by row.
    """
    return [(_select(key, index), _select(value, index)) for key, value in image]


def _select(states: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, H, N, D / H): (P, H, N, D / H)."""
    if not (torch.is_grad_enabled() and states.requires_grad):
        return states.index_select(0, index)
    rows = torch.arange(len(states), device=index.device)
    chosen = (index[:, None] == rows).to(states.dtype)
    by_token = states.transpose(1, 2)  # as it lies in memory
    return (chosen @ by_token.flatten(1)).view(-1, *by_token.shape[1:]).transpose(1, 2)
