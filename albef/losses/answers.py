"""Losses of the answers to questions (ALBEF, section 5, visual question answering)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def answer_losses(
    logits: Tensor, ids: Tensor, mask: Tensor, logits_m: Tensor | None, alpha: float
) -> Tensor:
    """Return the loss of each answer, mixed at every token with the momentum model's softmax.

    It is the loss of visual question answering (ALBEF, section 5).

    Args:
        logits: (A, L, V); the logits at a token predict the next one.
        ids: (A, L) the answers, [CLS] first and [SEP] last.
        mask: (A, L).
        logits_m: (A, L, V) of the momentum model; None if ``alpha`` is 0.
        alpha: weight of the momentum model.

    Returns:
        (A,) negative log-likelihoods, summed over the tokens of each answer.
    """
    log_p, targets = torch.log_softmax(logits[:, :-1].float(), dim=2), ids[:, 1:]
    # Flat, because the loss of a sequence has no deterministic form on a GPU.
    losses = F.nll_loss(log_p.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    if logits_m is not None:
        soft = torch.softmax(logits_m[:, :-1].float(), dim=2)
        distilled = -(log_p * soft).sum(dim=2)
        losses = (1 - alpha) * losses + alpha * distilled
    return (losses * mask[:, 1:]).sum(dim=1)


def vqa_loss(losses: Tensor, weights: Tensor, questions: int) -> Tensor:
    """Return the weighted sum of the losses (A,) of all answers, per question: a scalar.

    ``weights`` (A,) are the shares of annotators who gave the answer (ALBEF, section 5).
    """
    return (losses * weights).sum() / questions
