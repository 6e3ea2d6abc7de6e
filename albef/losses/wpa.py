"""Word-patch alignment: a contrastive loss on the attention of words. It is not in the paper.

ITC compares an image with a text as wholes. ITM and MLM can rely on an average over the image,
which has the content but not the location. This loss makes cross-attention itself distinguish the
images of a batch. A word then learns to attend to the region that it describes, and ITM and MLM
use that attention.

The name is ViLT's (Kim et al., 2021, arXiv:2102.03334). FILIP (Yao et al., 2022, arXiv:2111.07783)
also contrasts words and patches, but by features instead of attention.
"""

import math

import torch
from torch import Tensor

from albef.losses.itc import soft_cross_entropy


def wpa_loss(query: Tensor, key: Tensor, text_mask: Tensor, same: Tensor) -> Tensor:
    """Return the mean of the image-to-text and the text-to-image cross-entropy, a scalar.

    A word's score is a soft maximum of its attention scores over the patches. A text's score for an
    image is the mean over its words and the heads. Both [CLS] are left out. Memory: H x BL x BN
    numbers.

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
        attention = words @ patches.transpose(1, 2) / math.sqrt(width)
        soft_maxima = attention.unflatten(2, (len(key), -1)).logsumexp(dim=3).mean(dim=0)
    weights = text_mask[:, 1:, None].float()
    scores = (soft_maxima.unflatten(0, (len(query), -1)) * weights).sum(dim=1) / weights.sum(dim=1)
    by_text, by_image = (mask / mask.sum(dim=1, keepdim=True) for mask in (same, same.t()))
    return (soft_cross_entropy(scores, by_text) + soft_cross_entropy(scores.t(), by_image)) / 2
