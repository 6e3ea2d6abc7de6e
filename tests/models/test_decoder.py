"""Answers as a tree against answers one by one."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.answers import answer_losses
from albef.models.decoder import generate, log_likelihoods
from albef.preprocessing.answers import answer_tree
from tests.conftest import tiny_task
from tests.preprocessing.test_answers import best_answer
from tests.tasks.test_vqa_parity import original_task

ANSWERS = st.lists(st.lists(st.integers(6, 8), min_size=1, max_size=4), min_size=2, max_size=6)
START, END = 2, 3


@given(st.lists(ANSWERS, min_size=1, max_size=3))
@torch.no_grad()
def test_likelihoods_in_a_tree_are_those_of_each_answer(asked: list[list[list[int]]]) -> None:
    """Whatever the answers share, however long they are, and the same one twice."""
    count, k = len(asked), min(len(answers) for answers in asked)
    rows = [[START, *answer, END] for answers in asked for answer in answers[:k]]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = (ids > 0).long()
    tree = answer_tree(ids.view(count, k, -1).numpy(), mask.view(count, k, -1).numpy())
    beginnings = {(i // k, *row[:n]) for i, row in enumerate(rows) for n in range(1, len(row))}
    own = tree.sees.sum(2) == tree.depth + 1  # a node sees itself and its way from the start
    assert own.all()
    assert len(beginnings) <= tree.ids.size
    assert tree.ids.shape[1] == max(sum(b[0] == q for b in beginnings) for q in range(count))

    decoder = TASK.answer_decoder
    states, seen = torch.randn(count, 5, 32), torch.ones(count, 5, dtype=torch.long)
    question = decoder.question_key_values(states)
    ours = log_likelihoods(decoder, ids.view(count, k, -1), mask.view(count, k, -1), question, seen)
    each = -answer_losses(decoder(ids, mask, question, seen), ids, mask, None, 0.0)
    torch.testing.assert_close(ours, each.view(count, k), rtol=1e-5, atol=1e-5)


TASK = original_task().eval()


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_a_written_answer_is_that_of_a_plain_beam_search(beams: int) -> None:
    """With logits that would write [CLS] and [PAD] if they could, and ends at any length."""
    task = tiny_task("vqa")
    tokenizer, decoder = task.tokenizer, task.answer_decoder
    decoder.head.bias[[tokenizer.cls_id, tokenizer.pad_id]] += 20
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    lengths = set()
    for seed in range(4):
        decoder.head.bias[tokenizer.sep_id] += 1
        states = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(seed))
        ids, score = generate(decoder, states, mask, tokenizer, beams=beams, max_tokens=5)
        for number in (0, 1):
            length = int(mask[number].sum())  # alone, and without padding
            question = decoder.question_key_values(states[number : number + 1, :length])

            def log_p(text: Sequence[int], question: Any = question, seen: int = length) -> Any:
                row = torch.tensor([text])
                logits = decoder(row, torch.ones_like(row), question, torch.ones(1, seen))
                return torch.log_softmax(logits[0, -1], dim=0).numpy()

            text, expected = best_answer(log_p, tokenizer, beams, 5)
            found = ids[number].tolist()
            assert found[: len(text)] == text
            assert set(found[len(text) :]) <= {tokenizer.pad_id}
            assert float(score[number]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
            lengths.add(len(text))
    assert len(lengths) > 1
