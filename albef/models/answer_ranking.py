"""Ranking a closed list of answers, as a tree of their tokens (ALBEF, section 5).

Shapes: B questions, K answers to each, L answer tokens.
"""

import torch
from torch import Tensor

from albef.models.bert import KeyValue
from albef.models.decoder import AnswerDecoder
from albef.preprocessing.answers import answer_tree

AT_ONCE = 512
"""Nodes whose likelihoods are computed together: the vocabulary is wide."""


def log_likelihoods(
    decoder: AnswerDecoder,
    ids: Tensor,
    mask: Tensor,
    question: list[KeyValue],
    question_mask: Tensor,
) -> Tensor:
    """Log-likelihoods (B, K) of answers, summed over their tokens.

    Args:
        decoder: the model.
        ids: (B, K, L) the answers to each question, [CLS] first.
        mask: (B, K, L).
        question: keys and values of B questions, one pair a layer.
        question_mask: (B, N).
    """
    tree = answer_tree(ids.cpu().numpy(), mask.cpu().numpy())
    tree_ids, depth, sees, nodes = (torch.from_numpy(part).to(ids.device) for part in tree)
    states = decoder.tree_states(tree_ids, depth, sees, question, question_mask)
    told = []
    at_once = max(1, AT_ONCE // states.shape[1])
    for own, node, target in zip(
        states.split(at_once), nodes.split(at_once), ids[:, :, 1:].split(at_once), strict=True
    ):
        log_p = torch.log_softmax(decoder.logits(own).float(), dim=2)
        row = torch.arange(len(own), device=ids.device)[:, None, None]
        told.append(log_p[row, node, target])
    return (torch.cat(told) * mask[:, :, 1:]).sum(dim=2)


@torch.no_grad()
def rank(
    decoder: AnswerDecoder,
    fused_states: Tensor,
    question_mask: Tensor,
    ids: Tensor,
    mask: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Rank a closed list of C answers for each question.

    The ``k`` answers with the most probable first token are scored by that log-probability plus
    the log-likelihood of the whole answer, so the first token counts twice, as in the original.

    Args:
        decoder: the model.
        fused_states: (B, N, D) of the questions.
        question_mask: (B, N).
        ids: (C, L) the answers, [CLS] first and [SEP] last.
        mask: (C, L).
        k: how many are scored in full; all where there are fewer.

    Returns:
        Places in the list (B, k), best first, and their probabilities (B, k), which sum to 1.
    """
    count, k = len(fused_states), min(k, len(ids))
    question = decoder.question_key_values(fused_states)
    start = ids[:1, :1].expand(count, 1)
    first = decoder(start, torch.ones_like(start), question, question_mask)[:, 0].float()
    log_first, chosen = torch.log_softmax(first, dim=1)[:, ids[:, 1]].topk(k, dim=1)
    likelihood = log_likelihoods(decoder, ids[chosen], mask[chosen], question, question_mask)
    probabilities = torch.softmax(log_first + likelihood, dim=1)
    best = probabilities.topk(k, dim=1)
    return chosen.gather(1, best.indices), best.values
