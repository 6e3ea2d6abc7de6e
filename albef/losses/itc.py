"""Image-text contrastive loss with momentum targets (ALBEF, sections 3.2 and 3.3).

It is a softmax over candidates as in the paper, or a sigmoid of each pair as in SigLIP (Zhai et
al., 2023).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from albef.losses.distill import soft_labels, soft_targets


class ItcOutput(NamedTuple):
    """Outcome of :func:`itc_loss`; C = B + Q candidates, the batch first."""

    loss: Tensor
    """Scalar."""
    sim_i2t: Tensor
    """(B, C) student image features against momentum text features, over temperature."""
    sim_t2i: Tensor
    """(B, C) student text features against momentum image features, over temperature."""
    targets_i2t: Tensor
    """(B, C) target distributions, or with a bias the probability of each pair."""
    targets_t2i: Tensor
    """(B, C) as ``targets_i2t``."""


def similarities(feat: Tensor, batch_feat_m: Tensor, queue_feat: Tensor, scale: Tensor) -> Tensor:
    """Return scaled similarities of unit vectors to the candidates ``[batch | queue]``.

    Args:
        feat: (B, E) queries.
        batch_feat_m: (B, E) the batch's features of the momentum model.
        queue_feat: (Q, E) features of earlier batches; Q may be 0.
        scale: scalar, one over the temperature.

    Returns:
        (B, B + Q), float32 under any autocast: near 80, bfloat16 has a resolution of 0.5. The
        logits are concatenated instead of the features because the queue is much larger.
    """
    device = feat.device.type if torch.amp.is_autocast_available(feat.device.type) else "cpu"
    with torch.autocast(device, enabled=False):
        return torch.cat([feat @ batch_feat_m.t(), feat @ queue_feat.t()], dim=1) * scale


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over rows of the cross-entropy to targets; (B, C), (B, C) -> scalar."""
    return -(torch.log_softmax(logits, dim=1) * targets).sum(dim=1).mean()


def sigmoid_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over rows of the summed binary cross-entropies; (B, C), (B, C) -> scalar."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def itc_loss(
    image_feat: Tensor,
    text_feat: Tensor,
    image_feat_m: Tensor,
    text_feat_m: Tensor,
    queue_image: Tensor,
    queue_text: Tensor,
    temperature: Tensor,
    hard: Tensor,
    alpha: float,
    ignored: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
) -> ItcOutput:
    """Return the mean of the image-to-text and text-to-image losses over batch and queue.

    It is ITC (ALBEF, sections 3.2 and 3.3), or with ``bias`` the loss of SigLIP.

    Both losses are cross-entropies over the candidates of a row, or with ``bias`` sums of the
    binary cross-entropy of each pair. Distillation then mixes the label of a pair, 0 or 1, with the
    momentum model's probability of the pair.

    Args:
        image_feat: (B, E) unit vectors of the student.
        text_feat: (B, E) unit vectors of the student.
        image_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        text_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        queue_image: (Q, E) image features of earlier batches.
        queue_text: (Q, E) text features of earlier batches.
        temperature: learned scalar; divides all similarities, those of the momentum model too.
        hard: (B, C) target distributions before distillation.
        alpha: weight of the momentum model's output in the targets; 0 skips the momentum model.
        ignored: (B, C) bool each, of the images and of the texts: candidates that are neither
            positives nor negatives. They have no weight in ``hard``.
        bias: learned scalar that is added to the similarities of the sigmoid loss, in which every
            candidate with weight in ``hard`` is a positive. None selects the softmax.

    Returns:
        ``loss``, a scalar; ``sim_i2t`` and ``sim_t2i`` (B, C), similarities over temperature, from
        which :func:`hard_negatives` draws; ``targets_i2t`` and ``targets_t2i`` (B, C).
    """
    scale = 1 / temperature
    sim_i2t = similarities(image_feat, text_feat_m, queue_text, scale)
    sim_t2i = similarities(text_feat, image_feat_m, queue_image, scale)
    targets_i2t = targets_t2i = hard if bias is None else (hard > 0).to(hard.dtype)
    of_images, of_texts = ignored or (None, None)
    sim_i2t, sim_t2i = _without(sim_i2t, of_images), _without(sim_t2i, of_texts)
    loss_of, soften = soft_cross_entropy, soft_targets
    if bias is not None:
        loss_of, soften = sigmoid_loss, soft_labels
    if alpha > 0:
        with torch.no_grad():
            sim_i2t_m = similarities(image_feat_m, text_feat_m, queue_text, scale)
            sim_t2i_m = similarities(text_feat_m, image_feat_m, queue_image, scale)
            logits_i2t_m = _plus(_without(sim_i2t_m, of_images), bias)
            logits_t2i_m = _plus(_without(sim_t2i_m, of_texts), bias)
            targets_i2t = soften(targets_i2t, logits_i2t_m, alpha)
            targets_t2i = soften(targets_t2i, logits_t2i_m, alpha)
    loss = loss_of(_plus(sim_i2t, bias), targets_i2t) + loss_of(_plus(sim_t2i, bias), targets_t2i)
    return ItcOutput(loss / 2, sim_i2t, sim_t2i, targets_i2t, targets_t2i)


def _without(sim: Tensor, ignored: Tensor | None) -> Tensor:
    """Return similarities (B, C) whose ignored entries have no weight in either loss."""
    return sim if ignored is None else sim.masked_fill(ignored, -1e4)


def _plus(sim: Tensor, bias: Tensor | None) -> Tensor:
    return sim if bias is None else sim + bias


def one_hot_targets(batch: int, candidates: int, device: torch.device) -> Tensor:
    """Return targets (B, C) in which each pair is its only positive (ALBEF, section 3.2)."""
    return torch.eye(batch, candidates, device=device)


def same_image_targets(ids: Tensor, queue_ids: Tensor) -> Tensor:
    """Return targets (B, B + Q): all entries that share an id with the row have equal weight.

    The original code's fine-tuning for retrieval uses them.

    Args:
        ids: (B,) ids of the batch, such as image ids.
        queue_ids: (Q,) ids of the queue.
    """
    same = (ids[:, None] == torch.cat([ids, queue_ids])[None]).float()
    return same / same.sum(dim=1, keepdim=True)


def describes(texts: Tensor, images: Tensor) -> Tensor:
    """Return (I, T) bool, true if a text is one of an image's.

    Args:
        texts: (T,) ids of texts.
        images: (I, n) ids of the texts of each image.
    """
    return (images[:, None] == texts[None, :, None]).any(dim=2)
