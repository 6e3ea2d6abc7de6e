"""Answers as token ids: a closed list as a tree, and beam search. Uses numpy only.

The caller provides token probabilities, from torch or from an exported decoder.

Shapes: B questions, K answers per question, L answer tokens, W nodes per question at most.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from albef.preprocessing.text import TextTokenizer

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Answer(NamedTuple):
    """An answer and its probability, either among the ranked answers or as a generated text."""

    text: str
    probability: float


class AnswerTree(NamedTuple):
    """Distinct prefixes of the answers to each question, as padded nodes.

    The state of a token depends only on the prefix that it ends, so each distinct prefix is
    computed once, and no padding of answers.
    """

    ids: Ints
    """(B, W) the last token of each prefix."""
    depth: Ints
    """(B, W) position of this token in the answer."""
    sees: NDArray[np.bool_]
    """(B, W, W) whether a node attends to another: to itself and to its ancestors."""
    node: Ints
    """(B, K, L - 1) the node of the prefix that ends with each token; 0 if no token follows."""


def answer_tree(ids: Ints, mask: Ints) -> AnswerTree:
    """Return the tree of answers ``ids`` (B, K, L) with ``mask`` (B, K, L).

    All answers start with the same token.
    """
    count, k, length = ids.shape
    tokens = ids.reshape(count * k, length)
    has_token = mask.reshape(count * k, length)[:, 1:] == 1  # the last token has no successor
    question = np.repeat(np.arange(count), k)
    node = np.zeros_like(tokens[:, 1:])
    prefix, spread = question.copy(), int(ids.max()) + 1
    owners, last, depths = [], [], []
    total = 0
    for position in range(length - 1):
        is_present = has_token[:, position]
        keys = prefix[is_present] * spread + tokens[is_present, position]
        distinct, inverse = np.unique(keys, return_inverse=True)
        prefix[is_present] = inverse
        node[is_present, position] = inverse + total
        owner = np.empty_like(distinct)
        owner[inverse] = question[is_present]
        owners.append(owner)
        last.append(distinct % spread)
        depths.append(np.full_like(distinct, position))
        total += len(distinct)
    owned = np.concatenate(owners)
    counts = np.bincount(owned, minlength=count)
    order = np.argsort(owned, kind="stable")
    slot = np.empty_like(owned)
    slot[order] = np.arange(total) - (counts.cumsum() - counts)[owned[order]]

    width = int(counts.max())
    tree_ids, depth = (np.zeros((count, width), np.int64) for _ in range(2))
    tree_ids[owned, slot] = np.concatenate(last)
    depth[owned, slot] = np.concatenate(depths)
    slots = slot[node] * has_token
    sees = np.repeat(np.eye(width, dtype=np.bool_)[None], count, axis=0)
    visible = np.tril(np.repeat(has_token[:, :, None], length - 1, axis=2))
    answer, node_at, seen_at = visible.nonzero()
    sees[question[answer], slots[answer, node_at], slots[answer, seen_at]] = True
    return AnswerTree(tree_ids, depth, sees, slots.reshape(count, k, length - 1))


def beam_search(
    likely: Callable[[Ints], tuple[Floats, Ints]],
    count: int,
    tokenizer: TextTokenizer,
    *,
    beams: int,
    max_tokens: int,
) -> tuple[Ints, Floats]:
    """Generate an answer to each of B questions by beam search; one beam is greedy search.

    Args:
        likely: returns the most probable next tokens of prefixes (R, L), which are ordered by
            question, the same number for each: log-probabilities (R, n), highest first, and the
            tokens (R, n), never [PAD] or [CLS]. n is ``beams``, or all tokens if they are fewer.
        count: B.
        tokenizer: its [CLS] starts an answer, its [SEP] ends it.
        beams: number of prefixes kept per question.
        max_tokens: maximum answer length; a longer answer is cut.

    Returns:
        Ids (B, L), starting with [CLS] and padded, and the log-likelihood (B,) of each answer.
    """
    pad = tokenizer.pad_id
    ids = np.full((count, 1, 1), tokenizer.cls_id, np.int64)
    score = np.zeros((count, 1), np.float32)
    for _ in range(max_tokens - 1):
        rows = ids.reshape(-1, ids.shape[2])
        ended = np.isin(rows[:, -1], (tokenizer.sep_id, pad))
        if ended.all():
            break
        log_p, tokens = likely(rows)
        # An answer that has ended continues with padding, which does not change its score.
        log_p = np.where(ended[:, None], np.where(np.arange(log_p.shape[1]), -np.inf, 0), log_p)
        tokens = np.where(ended[:, None], pad, tokens)
        total = (score.reshape(-1, 1) + log_p.astype(np.float32)).reshape(count, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        score = np.take_along_axis(total, best, axis=1)
        prefixes = np.take_along_axis(ids, (best // log_p.shape[1])[:, :, None], axis=1)
        added = np.take_along_axis(tokens.reshape(count, -1), best, axis=1)
        ids = np.concatenate([prefixes, added[:, :, None]], axis=2)
    return ids[:, 0], score[:, 0]
