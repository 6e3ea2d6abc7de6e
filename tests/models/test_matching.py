"""Ranks and recalls on hand-written matrices."""

import torch

from albef.models.matching import (
    NOT_RANKED,
    best,
    chance_recalls,
    encode_texts,
    first_rank,
    match_scores,
    recalls,
)
from benchmarks.reference import reranked
from tests.tasks.test_pretraining_parity import original_task


def test_the_best_right_answer_counts_and_ties_count_against_the_model() -> None:
    assert first_rank(torch.zeros(2, 3), torch.eye(2, 3).bool()).tolist() == [2, 2]
    for scores, relevant in (
        ([0.1, 0.9, 0.5, 0.7], [True, False, True, False]),
        ([3.0, -torch.inf, -5.0], [False, True, False]),  # what is not re-ranked
    ):
        assert first_rank(torch.tensor([scores]), torch.tensor([relevant])).tolist() == [2]


def test_recalls_in_percent() -> None:
    result = recalls([0, 4, 9, 10], [0, 0, 1, 100])
    assert [result[f"tr@{k}"] for k in (1, 5, 10)] == [25, 50, 75]
    assert [result[f"ir@{k}"] for k in (1, 5, 10)] == [50, 75, 75]
    assert result["r_mean"] == (25 + 50 + 75 + 50 + 75 + 75) / 6


def test_chance_is_what_a_random_order_scores() -> None:
    chance = chance_recalls(images=500, texts=500)
    assert chance["tr@10"] == 2.0
    generator = torch.Generator().manual_seed(0)
    relevant = torch.eye(500, dtype=torch.bool)
    ranks = [first_rank(torch.rand(500, 500, generator=generator), relevant) for _ in range(8)]
    flat = torch.cat(ranks).tolist()
    assert abs(recalls(flat, flat)["r_mean"] - chance["r_mean"]) < 0.3


@torch.no_grad()
def test_pairs_scored_once_equal_pairs_scored_for_each_query() -> None:
    task = original_task(0.4).eval()
    torch.manual_seed(0)
    images = [torch.randn(4, 3, 48, 48), torch.randn(3, 3, 48, 48)]
    ids = torch.randint(5, 211, (9, 10))
    mask = (torch.arange(10)[None] < torch.randint(3, 11, (9, 1))).long()
    _, states = encode_texts(task.model, ids * mask, mask, 4)
    sim = torch.randn(7, 9)
    encoded = task.model.encode_image(torch.cat(images)), states, mask
    given = task.model, task.itm_head, encoded
    plain = reranked(*given, sim, 4), reranked(*given, sim.t(), 4, by_text=True)
    chosen = best(sim, 4) | best(sim.t(), 4).t()
    ours = match_scores(task.model, task.itm_head, images, states, mask, chosen)
    for scores, side in ((ours, 0), (ours.t(), 1)):
        told = plain[side] > NOT_RANKED
        assert 0 < int(told.sum()) < told.numel()
        torch.testing.assert_close(scores[told], plain[side][told], rtol=1e-5, atol=1e-5)
