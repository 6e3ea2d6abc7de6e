"""Image-text contrastive loss with momentum targets (ALBEF, sections 3.2 and 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from albef.losses.distill import soft_targets


class Contrast(NamedTuple):
    """Outcome of :func:`contrast`; C = B + Q candidates, the batch first."""

    loss: Tensor
    """Scalar."""
    sim_i2t: Tensor
    """(B, C) student image features against momentum text features, over temperature."""
    sim_t2i: Tensor
    """(B, C) student text features against momentum image features, over temperature."""
    targets_i2t: Tensor
    """(B, C) target distributions."""
    targets_t2i: Tensor
    """(B, C) target distributions."""


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


def contrast(
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
) -> Contrast:
    """Return the mean of the image-to-text and text-to-image losses over batch and queue.

    Both losses are cross-entropies.

    Args:
        image_feat: (B, E) unit vectors of the student.
        text_feat: (B, E) unit vectors of the student.
        image_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        text_feat_m: (B, E) unit vectors of the momentum model, without gradient.
        queue_image: (Q, E) image features of earlier batches.
        queue_text: (Q, E) text features of earlier batches.
        temperature: learned scalar; divides all similarities, those of the momentum model too.
        hard: (B, C) target distributions before distillation.
        alpha: weight of the momentum model's softmax in the targets; 0 skips the momentum model.
        ignored: (B, C) bool each, of the images and of the texts: candidates that are neither
            positives nor negatives. They have no weight in ``hard``.
    """
    scale = 1 / temperature
    sim_i2t = similarities(image_feat, text_feat_m, queue_text, scale)
    sim_t2i = similarities(text_feat, image_feat_m, queue_image, scale)
    targets_i2t = targets_t2i = hard
    of_images, of_texts = ignored or (None, None)
    sim_i2t, sim_t2i = _without(sim_i2t, of_images), _without(sim_t2i, of_texts)
    if alpha > 0:
        with torch.no_grad():
            sim_i2t_m = similarities(image_feat_m, text_feat_m, queue_text, scale)
            sim_t2i_m = similarities(text_feat_m, image_feat_m, queue_image, scale)
            targets_i2t = soft_targets(hard, _without(sim_i2t_m, of_images), alpha)
            targets_t2i = soft_targets(hard, _without(sim_t2i_m, of_texts), alpha)
    loss = (soft_cross_entropy(sim_i2t, targets_i2t) + soft_cross_entropy(sim_t2i, targets_t2i)) / 2
    return Contrast(loss, sim_i2t, sim_t2i, targets_i2t, targets_t2i)


def _without(sim: Tensor, ignored: Tensor | None) -> Tensor:
    """Return similarities (B, C) whose ignored entries have no weight in a softmax."""
    return sim if ignored is None else sim.masked_fill(ignored, -1e4)


def one_hot_targets(batch: int, candidates: int, device: torch.device) -> Tensor:
    """Return targets (B, C) in which each pair is its only positive."""
    return torch.eye(batch, candidates, device=device)


def same_image_targets(ids: Tensor, queue_ids: Tensor) -> Tensor:
    """Return targets (B, B + Q): all entries that share an id with the row have equal weight.

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
