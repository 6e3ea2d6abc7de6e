"""Ranking a closed list of answers, as a tree of their tokens (ALBEF, section 5).

A token of an answer sees itself and what stands before it, so its state depends on the beginning
of the answer alone. Here each distinct beginning of the answers to a question has one state, where
one for each token of each answer, and for the padding, would be computed else.

Shapes: B questions, K answers to each, L answer tokens, W nodes at most of a question.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from albef.models.bert import KeyValue
from albef.models.decoder import AnswerDecoder

AT_ONCE = 512
"""Nodes whose likelihoods are computed together: the vocabulary is wide."""


class AnswerTree(NamedTuple):
    """Distinct beginnings of the answers to each question, as nodes; padded."""

    ids: Tensor
    """(B, W) the last token of each beginning."""
    depth: Tensor
    """(B, W) its place in the answer."""
    sees: Tensor
    """(B, W, W) bool: whether a node sees another, itself and those it goes on from."""
    node: Tensor
    """(B, K, L - 1) the beginning that ends with each token; 0 where no token comes after."""


def answer_tree(ids: Tensor, mask: Tensor) -> AnswerTree:
    """The tree of answers ``ids`` (B, K, L) with ``mask`` (B, K, L); all start with one token."""
    count, k, length = ids.shape
    tokens = ids.flatten(0, 1)
    told = mask.flatten(0, 1)[:, 1:].bool()  # what nothing comes after foretells nothing
    question = torch.arange(count, device=ids.device).repeat_interleave(k)
    node = torch.zeros_like(tokens[:, 1:])
    prefix, spread = question.clone(), int(ids.max()) + 1
    owners, last, depths = [], [], []
    total = 0
    for place in range(length - 1):
        has = told[:, place]
        keys = prefix[has] * spread + tokens[has, place]
        distinct, which = torch.unique(keys, return_inverse=True)
        prefix[has] = which
        node[has, place] = which + total
        owner = torch.empty_like(distinct)
        owner[which] = question[has]
        owners.append(owner)
        last.append(distinct % spread)
        depths.append(torch.full_like(distinct, place))
        total += len(distinct)
    owned = torch.cat(owners)
    counts = torch.bincount(owned, minlength=count)
    order = owned.argsort(stable=True)
    slot = torch.empty_like(owned)
    slot[order] = torch.arange(total, device=ids.device) - (counts.cumsum(0) - counts)[owned[order]]

    width = int(counts.max())
    tree_ids, depth = (ids.new_zeros(count, width) for _ in range(2))
    tree_ids[owned, slot] = torch.cat(last)
    depth[owned, slot] = torch.cat(depths)
    slots = slot[node] * told
    sees = torch.eye(width, dtype=torch.bool, device=ids.device).repeat(count, 1, 1)
    before = told[:, :, None].expand(-1, -1, length - 1).tril()
    pair = question[:, None, None].expand_as(before), slots[:, :, None], slots[:, None, :]
    sees[tuple(part.expand_as(before)[before] for part in pair)] = True
    return AnswerTree(tree_ids, depth, sees, slots.view(count, k, -1))


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
    tree = answer_tree(ids, mask)
    states = decoder.tree_states(tree.ids, tree.depth, tree.sees, question, question_mask)
    told = []
    at_once = max(1, AT_ONCE // states.shape[1])
    for own, node, target in zip(
        states.split(at_once), tree.node.split(at_once), ids[:, :, 1:].split(at_once), strict=True
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
