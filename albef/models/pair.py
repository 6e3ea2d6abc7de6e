"""Fusion of a text with two images, for NLVR2 (ALBEF, section 5): every layer is doubled.

The first layer of a pair attends to image 0, the second to image 1; the two share the projections
to keys and values. Shapes: B batch, N image tokens, D width.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from albef.models.albef import ALBEF, ModelConfig
from albef.models.bert import KeyValue
from albef.models.fusion import FusionEncoder
from albef.models.text import TextConfig

_LAYER = re.compile(r"((?:.*\.)?fusion_encoder\.layer\.)(\d+)\.(.*)")
_SHARED = ("crossattention.self.key.", "crossattention.self.value.")


class PairFusionEncoder(FusionEncoder):
    """Twice ``fusion_depth`` layers, by turns for the first image and for the second."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        doubled = config.model_copy(update={"fusion_depth": 2 * config.fusion_depth})
        super().__init__(doubled, image_width)
        for layer in self.layer[1::2]:  # it reads keys and values of the layer before
            projections = layer.get_submodule("crossattention.self")
            del projections.key, projections.value

    def image_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Keys and values for every layer.

        Args:
            image_states: (2B, N, D), the first images of all texts, then the second ones.

        Returns:
            One pair a layer, of B images each.
        """
        result: list[KeyValue] = []
        for key, value in self.shared_key_values(image_states):
            result += zip(key.chunk(2), value.chunk(2), strict=True)
        return result

    def shared_key_values(self, image_states: Tensor) -> list[KeyValue]:
        """Keys and values of images (B, N, D), one pair for every two layers, whichever place they
        take."""
        return [layer.image_key_value(image_states) for layer in self.layer[::2]]  # type: ignore[operator]


class PairALBEF(ALBEF):
    """ALBEF with a doubled fusion encoder; text and image encoder are as they were."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.fusion_encoder = PairFusionEncoder(config.text, config.image.width)


def doubled(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors by name with every fusion layer doubled; those of a doubled model stay as they are.

    Args:
        tensors: of an :class:`ALBEF` or a :class:`PairALBEF`, or of modules that hold one.
        config: its sizes.
    """
    layers = {int(found[2]) for name in tensors if (found := _LAYER.fullmatch(name))}
    if len(layers) > config.text.fusion_depth:
        return dict(tensors)
    result = {}
    for name, tensor in tensors.items():
        found = _LAYER.fullmatch(name)
        if found is None:
            result[name] = tensor
            continue
        start, index, rest = found[1], int(found[2]), found[3]
        result[f"{start}{2 * index}.{rest}"] = tensor
        if not rest.startswith(_SHARED):
            result[f"{start}{2 * index + 1}.{rest}"] = tensor
    return result
