"""Beam search against one of twenty lines."""

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from albef.preprocessing.answers import beam_search
from albef.preprocessing.text import TextTokenizer
from tests.conftest import CAPTIONS

TOKENIZER = TextTokenizer.train(CAPTIONS, 60)
WORDS = TOKENIZER.vocab_size


def best_answer(
    log_p: Callable[[Sequence[int]], NDArray[np.float32]],
    tokenizer: TextTokenizer,
    beams: int,
    max_tokens: int,
) -> tuple[list[int], float]:
    """Beam search of one question: a list of texts and their log-likelihoods, word by word."""
    kept: list[tuple[float, list[int]]] = [(0.0, [tokenizer.cls_id])]
    for _ in range(max_tokens - 1):
        longer = []
        for score, text in kept:
            if text[-1] == tokenizer.sep_id:
                longer.append((score, text))
                continue
            values = log_p(text)
            for token in range(len(values)):
                if token not in (tokenizer.cls_id, tokenizer.pad_id):
                    longer.append((score + float(values[token]), [*text, token]))
        kept = sorted(longer, key=lambda pair: -pair[0])[:beams]
    return kept[0][1], kept[0][0]


@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 2**32), st.floats(0, 6))
def test_beam_search_equals_the_plain_one(
    beams: int, max_tokens: int, seed: int, end: float
) -> None:
    """Whatever ends early: then an ended answer competes with longer ones."""

    def values(question: int, text: Sequence[int]) -> NDArray[np.float32]:
        logits = np.random.default_rng([seed, question, *text]).normal(0, 2, WORDS)
        logits[TOKENIZER.sep_id] += end
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def likely(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        owner = np.repeat([0, 1], len(rows) // 2)
        log_p = np.stack([values(int(q), row.tolist()) for q, row in zip(owner, rows, strict=True)])
        log_p[:, [TOKENIZER.pad_id, TOKENIZER.cls_id]] = -np.inf
        order = np.argsort(-log_p, axis=1)[:, :beams]
        return np.take_along_axis(log_p, order, axis=1), order

    ids, score = beam_search(likely, 2, TOKENIZER, beams=beams, max_tokens=max_tokens)
    for question in (0, 1):
        text, expected = best_answer(
            lambda t, q=question: values(q, t), TOKENIZER, beams, max_tokens
        )
        found = ids[question].tolist()
        assert found[: len(text)] == text
        assert set(found[len(text) :]) <= {TOKENIZER.pad_id}
        assert abs(float(score[question]) - expected) < 1e-4
