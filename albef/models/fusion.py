"""The fusion half of BERT: text states attend to the image, layer by layer.

For two images (NLVR2; ALBEF, section 5) every layer is doubled. The first of a pair attends to
image 0, the second to image 1. Both share the projections to keys and values.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from albef.models.bert import BertLayer, init_bert_weights
from albef.models.kernels import KeyValue
from albef.models.text import TextConfig

_LAYER = re.compile(r"((?:.*\.)?fusion_encoder\.layer\.)(\d+)\.(.*)")
_SHARED = ("crossattention.self.key.", "crossattention.self.value.")


class FusionEncoder(nn.Module):
    """The last ``fusion_depth`` layers, each with cross-attention; no embedding, no final norm."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            BertLayer(config.width, config.heads, config.intermediate, config.dropout, image_width)
            for _ in range(config.fusion_depth)
        )
        init_bert_weights(self, config.width)

    @torch.no_grad()
    def scale_first_cross_attention(self, factor: float) -> None:
        """Multiply the weights of queries and keys in the first layer's cross-attention."""
        first: Any = self.layer[0]
        for projection in (first.crossattention.self.query, first.crossattention.self.key):
            projection.weight.mul_(factor)

    def image_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Return keys and values of the image (B, N, D) for every layer, computed once."""
        return [layer.image_key_value(image_states) for layer in self.layer]  # type: ignore[operator]

    def begin(self, text_states: Tensor, bias: Tensor) -> Tensor:
        """Compute the first layer's self-attention (B, L, D), which is the same for all images."""
        first: Any = self.layer[0]
        begun: Tensor = first.attend_to_text(text_states, bias)
        return begun

    def first_query(self, begun: Tensor) -> Tensor:
        """Return the queries (B, H, L, D / H) to an image of the first layer, after `begin`."""
        first: Any = self.layer[0]
        query: Tensor = first.cross_query(begun)
        return query

    def forward(
        self,
        text_states: Tensor,
        bias: Tensor,
        image: list[KeyValue],
        positions: Tensor | slice | None = None,
        begun: bool = False,
    ) -> Tensor:
        """Fuse texts (B, L, D), with the additive bias of their mask, with B images.

        Returns ``fused_states`` (B, L, D), or (B, M, D) at ``positions`` (B, M) of the last layer,
        which may also be a slice of M rows of each text. ``begun`` texts come from :meth:`begin`.
        """
        states = text_states
        last = len(self.layer) - 1
        for index, layer in enumerate(self.layer):
            chosen = positions if index == last else None
            states = layer(states, bias, image[index], chosen, attended=begun and index == 0)
        return states


class PairFusionEncoder(FusionEncoder):
    """Twice ``fusion_depth`` layers, alternately for the first image and for the second."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        doubled = config.model_copy(update={"fusion_depth": 2 * config.fusion_depth})
        super().__init__(doubled, image_width)
        for layer in self.layer[1::2]:  # reuses keys and values of the layer before
            projections = layer.get_submodule("crossattention.self")
            del projections.key, projections.value

    def image_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Return keys and values of B image pairs for every layer.

        The states (2B, N, D) hold the first images of all texts, then the second ones.
        """
        result: list[KeyValue] = []
        for key, value in self.shared_key_values(image_states):
            result += zip(key.chunk(2), value.chunk(2), strict=True)
        return result

    def shared_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Return keys and values of images (B, N, D), one pair for every two layers.

        They are the same for the first and the second image of a pair.
        """
        return [layer.image_key_value(image_states) for layer in self.layer[::2]]  # type: ignore[operator]


def doubled(tensors: Mapping[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """Return the tensors with every fusion layer doubled; a doubled model is unchanged."""
    parts = {name: _LAYER.fullmatch(name) for name in tensors}
    if len({int(match[2]) for match in parts.values() if match}) > config.fusion_depth:
        return dict(tensors)
    result = {}
    for name, tensor in tensors.items():
        match = parts[name]
        if match is None:
            result[name] = tensor
            continue
        start, index, suffix = match[1], int(match[2]), match[3]
        result[f"{start}{2 * index}.{suffix}"] = tensor
        if not suffix.startswith(_SHARED):
            result[f"{start}{2 * index + 1}.{suffix}"] = tensor
    return result
