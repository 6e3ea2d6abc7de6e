"""The method as it is told, one pass after another: the proof and the baseline of the fast paths.

The modules, the attention kernel and the text lengths are those of the fast paths. What differs:
every pass computes the image's keys and values anew and every row of the last fusion layer, the
vocabulary is projected at all positions, nothing is batched across passes, the queue is copied,
and loops stand where the fast paths have one call.
"""

from torch import Tensor

from albef.models.albef import ALBEF


def fused(model: ALBEF, text_states: Tensor, mask: Tensor, image_states: Tensor) -> Tensor:
    """A pass of its own through the fusion encoder: all ``fused_states`` (B, L, D)."""
    image = model.fusion_encoder.image_key_values(image_states)
    return model.fuse(text_states, mask, image)
