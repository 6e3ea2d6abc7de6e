"""The fusion half of BERT: text states attend to the image, layer by layer."""

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
        positions: Tensor | None = None,
    ) -> Tensor:
        """Fuse text with image.

        Args:
            text_states: (B, L, D).
            bias: additive, from the text mask.
            image: keys and values of B images, one pair a layer.
            positions: (B, M) rows wanted of the last layer; None means all.

        Returns:
            ``fused_states`` (B, L, D) or (B, M, D).
        """
        states = text_states
        last = len(self.layer) - 1
        for index, layer in enumerate(self.layer):
            states = layer(states, bias, image[index], positions if index == last else None)
        return states


def select(image: list[KeyValue], index: Tensor) -> list[KeyValue]:
    """The keys and values of the images at ``index`` (P,), one pair a layer."""
    return [(key.index_select(0, index), value.index_select(0, index)) for key, value in image]
