"""Answers as a tree against answers one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.answers import answer_losses
from albef.models.decoder import log_likelihoods
from albef.preprocessing.answers import answer_tree
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
