"""Answers as token ids: a closed list as a tree, and beam search; numpy alone.

What computes a token's probability is the caller's: torch, or an exported decoder.

Shapes: B questions, K answers to each, L answer tokens, W nodes at most of a question.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from albef.preprocessing.text import TextTokenizer

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Answer(NamedTuple):
    """An answer and how probable it is: among the ranked ones, or as a text that is written."""

    text: str
    probability: float


class AnswerTree(NamedTuple):
    """Distinct beginnings of the answers to each question, as nodes; padded.

    A token of an answer sees itself and what stands before it, so its state depends on the
    beginning of the answer alone. Each distinct beginning has one state here, where one for each
    token of each answer, and for the padding, would be computed else.
    """

    ids: Ints
    """(B, W) the last token of each beginning."""
    depth: Ints
    """(B, W) its place in the answer."""
    sees: NDArray[np.bool_]
    """(B, W, W): whether a node sees another, itself and those it goes on from."""
    node: Ints
    """(B, K, L - 1) the beginning that ends with each token; 0 where no token comes after."""


def answer_tree(ids: Ints, mask: Ints) -> AnswerTree:
    """The tree of answers ``ids`` (B, K, L) with ``mask`` (B, K, L); all start with one token."""
    count, k, length = ids.shape
    tokens = ids.reshape(count * k, length)
    has_token = mask.reshape(count * k, length)[:, 1:] == 1  # none after the last
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
    """Write an answer to each of B questions by beam search; one beam is the greedy answer.

    Args:
        likely: of beginnings (R, L), the same number of each question in the order of questions,
            the log-probabilities (R, n) of the ``beams`` most probable next tokens, or of all
            where there are fewer, best first, and these tokens (R, n); never [PAD] or [CLS].
        count: B.
        tokenizer: its [CLS] opens an answer, its [SEP] closes it.
        beams: answers followed at a time.
        max_tokens: of the longest answer; one that has not ended by then is cut.

    Returns:
        Ids (B, L), [CLS] first and padded, and the log-likelihood (B,) of each answer.
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
        # An answer that has ended goes on with padding, at no cost.
        log_p = np.where(ended[:, None], np.where(np.arange(log_p.shape[1]), -np.inf, 0), log_p)
        tokens = np.where(ended[:, None], pad, tokens)
        total = (score.reshape(-1, 1) + log_p.astype(np.float32)).reshape(count, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        score = np.take_along_axis(total, best, axis=1)
        prefixes = np.take_along_axis(ids, (best // log_p.shape[1])[:, :, None], axis=1)
        added = np.take_along_axis(tokens.reshape(count, -1), best, axis=1)
        ids = np.concatenate([prefixes, added[:, :, None]], axis=2)
    return ids[:, 0], score[:, 0]
