"""Word-patch alignment: a contrastive loss on where words look. It is not in the paper.

ITC compares a picture with a text as wholes, and ITM and MLM can live on an average over the
picture, which tells what is there and not where. This loss asks cross-attention itself to tell the
pictures of a batch apart, so that a word comes to look at what it means, which the other two then
read. The name is ViLT's (Kim et al., 2021, arXiv:2102.03334); FILIP (Yao et al., 2022,
arXiv:2111.07783) contrasts words and patches too, by features in place of attention.
"""

import math

import torch
from torch import Tensor

from albef.losses.itc import soft_cross_entropy


def wpa_loss(query: Tensor, key: Tensor, text_mask: Tensor, same: Tensor) -> Tensor:
    """Mean of the image-to-text and the text-to-image cross-entropy, a scalar.

    A text's score for an image is the mean, over its words and the heads, of a soft maximum of the
    word's attention scores over the patches. Neither [CLS] takes part. Memory: H x BL x BN numbers.

    Args:
        query: (B, H, L, D / H) of the texts, in a layer of cross-attention.
        key: (B, H, N, D / H) of the images.
        text_mask: (B, L).
        same: (B, B) bool, symmetric; true where a text is true of an image, its own included. The
            positives of a row share the weight equally.
    """
    heads, width = query.shape[1], query.shape[3]
    with torch.autocast(query.device.type, enabled=False):
        words = query[:, :, 1:].float().transpose(0, 1).reshape(heads, -1, width)
        patches = key[:, :, 1:].float().transpose(0, 1).reshape(heads, -1, width)
        attention = words @ patches.transpose(1, 2) / math.sqrt(width)
        soft_maxima = attention.unflatten(2, (len(key), -1)).logsumexp(dim=3).mean(dim=0)
    weights = text_mask[:, 1:, None].float()
    scores = (soft_maxima.unflatten(0, (len(query), -1)) * weights).sum(dim=1) / weights.sum(dim=1)
    targets = same / same.sum(dim=1, keepdim=True)
    return (soft_cross_entropy(scores, targets) + soft_cross_entropy(scores.t(), targets)) / 2
