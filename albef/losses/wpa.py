"""Word-patch alignment: a contrastive loss on the attention of words. It is not in the paper.

ITC compares an image with a text as wholes. ITM and MLM can rely on an average over the image,
which has the content but not the location. This loss makes cross-attention itself distinguish the
images of a batch. A word then learns to attend to the region that it describes, and ITM and MLM
use that attention.

The name is ViLT's (Kim et al., 2021, arXiv:2102.03334). FILIP (Yao et al., 2022, arXiv:2111.07783)
also contrasts words and patches, but by features instead of attention.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from albef.losses.itc import soft_cross_entropy

BLOCK = 2**26
"""Maximum number of attention scores that are in memory at a time."""
CPU_BLOCK = 2**20
"""The same on a CPU, where they stay in its cache."""


def wpa_loss(query: Tensor, key: Tensor, text_mask: Tensor, same: Tensor) -> Tensor:
    """Return the mean of the image-to-text and the text-to-image cross-entropy, a scalar.

    It is word-patch alignment, which is not in the paper.

    A word's score is a soft maximum of its attention scores over the patches. A text's score for an
    image is the mean over its words and the heads. Both [CLS] are left out.

    Args:
        query: (B, H, L, D / H) of the texts, in a layer of cross-attention.
        key: (B, H, N, D / H) of the images.
        text_mask: (B, L).
        same: (B, B) bool; true if the text of a row is true of the image of a column, including its
            own image. The positives share the weight equally.
    """
    heads, width = query.shape[1], query.shape[3]
    with torch.autocast(query.device.type, enabled=False):
        words = query[:, :, 1:].float().transpose(0, 1).reshape(heads, -1, width)
        patches = key[:, :, 1:].float().transpose(0, 1).reshape(heads, -1, width)
        words = words / math.sqrt(width)
        of_words = _soft_maxima(words, patches, len(key), text_mask[:, 1:].flatten())
    weights = text_mask[:, 1:, None].float()
    scores = (of_words.unflatten(0, (len(query), -1)) * weights).sum(dim=1) / weights.sum(dim=1)
    by_text, by_image = (mask / mask.sum(dim=1, keepdim=True) for mask in (same, same.t()))
    return (soft_cross_entropy(scores, by_text) + soft_cross_entropy(scores.t(), by_image)) / 2


def _soft_maxima(words: Tensor, patches: Tensor, images: int, is_word: Tensor) -> Tensor:
    """Return the soft maxima (W, B) of W words, as means over the heads; see :class:`SoftMaxima`.

    On a CPU, those of padding are not computed, and 0. A GPU would wait for the number of words.
    """
    apply: Any = SoftMaxima.apply
    if words.device.type != "cpu":
        return cast(Tensor, apply(words, patches, images).mean(dim=0))
    places = is_word.nonzero().squeeze(1)
    maxima = apply(words.index_select(1, places), patches, images).mean(dim=0)
    return cast(Tensor, maxima.new_zeros(len(is_word), images).index_copy(0, places, maxima))


class SoftMaxima(torch.autograd.Function):
    """For each word and image, the logarithm of the sum of exponentials of scores over patches.

    Scores are computed in blocks of words, and once more in the backward pass. That is faster than
    to write all H x BL x BN of them to memory.
    """

    @staticmethod
    def forward(ctx: Any, words: Tensor, patches: Tensor, images: int) -> Tensor:
        """Return (H, W, B) from W words (H, W, D / H) and patches (H, BN, D / H) of B images."""
        heads, rows, _ = patches.shape
        block = CPU_BLOCK if words.device.type == "cpu" else BLOCK
        ctx.step = max(1, block // (heads * rows))
        maxima = [
            (some @ patches.transpose(1, 2)).unflatten(2, (images, -1)).logsumexp(dim=3)
            for some in words.split(ctx.step, dim=1)
        ]
        result = torch.cat(maxima, dim=1)
        ctx.save_for_backward(words, patches, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of words and patches."""
        words, patches, maxima = ctx.saved_tensors
        of_words, of_patches = [], torch.zeros_like(patches)
        blocks = (tensor.split(ctx.step, dim=1) for tensor in (words, maxima, gradient))
        with torch.autocast(words.device.type, enabled=False):  # the caller may enable it
            for some, maximum, change in zip(*blocks, strict=True):
                scores = some @ patches.transpose(1, 2)
                by_image = scores.unflatten(2, (maxima.shape[2], -1))
                by_image.sub_(maximum[..., None]).exp_().mul_(change[..., None])
                of_words.append(scores @ patches)
                of_patches.baddbmm_(scores.transpose(1, 2), some)
        return torch.cat(of_words, dim=1), of_patches, None
