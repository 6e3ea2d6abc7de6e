"""Ranks and recalls on hand-written matrices, and the fusion that all pairs of a text share."""

import pytest
import torch

from albef.models.albef import ALBEF
from albef.models.matching import first_rank
from albef.tasks.rates import chance_recalls, recalls
from tests.conftest import tiny_model


@pytest.mark.parametrize("depth", [1, 2])
def test_fusion_that_has_begun_equals_fusion_from_the_start(depth: int) -> None:
    sizes = tiny_model()
    text = sizes.text.model_copy(update={"fusion_depth": depth})
    model = ALBEF(sizes.model_copy(update={"text": text}), 30).eval()
    ids, mask = torch.randint(30, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    states = model.encode_text(ids, mask)
    image = model.fusion_encoder.image_key_values(model.encode_image(torch.randn(3, 3, 16, 16)))
    begun = model.fused_cls(model.begin_fusion(states, mask), mask, image, begun=True)
    torch.testing.assert_close(begun, model.fused_cls(states, mask, image))


def test_the_best_right_answer_counts_and_ties_count_against_the_model() -> None:
    assert first_rank(torch.zeros(2, 3), torch.eye(2, 3).bool()).tolist() == [2, 2]
    for scores, relevant in (
        ([0.1, 0.9, 0.5, 0.7], [True, False, True, False]),
        ([3.0, -torch.inf, -5.0], [False, True, False]),  # what is not re-ranked
        ([torch.nan, torch.nan, torch.nan], [True, False, False]),  # a model that diverged
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
