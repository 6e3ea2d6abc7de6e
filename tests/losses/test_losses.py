"""The losses on hand-written cases."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.itc import (
    describes,
    itc_loss,
    same_image_targets,
    similarities,
    soft_cross_entropy,
)
from albef.losses.itm import draw, hard_negatives, itm_loss, ranking_loss
from albef.losses.mlm import IGNORED, mlm_loss
from albef.losses.wpa import wpa_loss
from tests.conftest import NEEDS_CUDA


def test_same_image_entries_share_the_weight_and_empty_queue_entries_have_none() -> None:
    targets = same_image_targets(torch.tensor([7, 8, 7]), torch.tensor([-100, 7]))
    torch.testing.assert_close(targets[0], torch.tensor([1, 0, 1, 0, 1]) / 3)
    torch.testing.assert_close(targets[1], torch.tensor([0.0, 1, 0, 0, 0]))


def test_a_text_describes_the_images_that_have_it() -> None:
    texts, images = torch.tensor([1, 2, 3]), torch.tensor([[1, 2], [2, 2]])
    rows = torch.tensor([[True, True, False], [False, True, False]])
    assert torch.equal(describes(texts, images), rows)


def test_contrast_ignores_candidates_as_if_they_were_not_there() -> None:
    feats = [torch.nn.functional.normalize(torch.randn(2, 4), dim=1) for _ in range(4)]
    queue = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    ignored = torch.tensor([[False, False, True, False]] * 2)
    given = queue, queue, torch.tensor(0.1), torch.eye(2, 4), 0.4, (ignored, ignored)
    short = queue[1:], queue[1:], torch.tensor(0.1), torch.eye(2, 3), 0.4
    torch.testing.assert_close(itc_loss(*feats, *given).loss, itc_loss(*feats, *short).loss)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_similarities_are_float32_under_autocast(device: str) -> None:
    feat = torch.nn.functional.normalize(torch.randn(6, 64, device=device), dim=1)
    given = feat, feat[:4], feat[4:], torch.tensor(80.0, device=device)
    exact = similarities(*given)
    with torch.autocast(device, torch.bfloat16):
        under = similarities(*given)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, exact, rtol=0, atol=0)


def test_contrast_with_a_bias_and_without_queue_is_siglips_loss() -> None:
    """Against the loss of a tiny SigLIP with random weights, and its gradients."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    text = sizes | {"vocab_size": 16, "max_position_embeddings": 4, "projection_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.logit_scale.data.fill_(math.log(10))
    model.logit_bias.data.fill_(-2.0)
    theirs = model(
        input_ids=torch.randint(16, (4, 4)), pixel_values=torch.randn(4, 3, 8, 8), return_loss=True
    )
    image, words = theirs.image_embeds.detach(), theirs.text_embeds.detach()
    temperature, bias = (torch.tensor(value, requires_grad=True) for value in (0.1, -2.0))
    given = image, words, image, words, *[torch.zeros(0, 8)] * 2, temperature
    ours = itc_loss(*given, torch.eye(4), 0.0, bias=bias)
    torch.testing.assert_close(ours.loss, theirs.loss)
    theirs.loss.backward()
    ours.loss.backward()
    torch.testing.assert_close(bias.grad, model.logit_bias.grad[0])
    # The scale is exp(logit_scale) there and 1 / temperature here.
    torch.testing.assert_close(-0.1 * temperature.grad, model.logit_scale.grad[0])


def test_sigmoid_contrast_labels_equal_ids_in_the_queue_and_mixes_in_the_momentum_model() -> None:
    """Two images against two texts of the batch and two of the queue, pair by pair."""
    torch.manual_seed(0)
    feats = [torch.nn.functional.normalize(torch.randn(2, 4), dim=1) for _ in range(4)]
    queues = [torch.nn.functional.normalize(torch.randn(2, 4), dim=1) for _ in range(2)]
    hard = same_image_targets(torch.tensor([7, 8]), torch.tensor([7, -100]))
    ignored = torch.tensor([[False, True, False, False], [False] * 4])
    options: tuple[Any, ...] = torch.tensor(0.2), hard, 0.3, (ignored, ignored), torch.tensor(-3.0)
    result = itc_loss(*feats, *queues, *options)
    total = 0.0
    for own, own_m, other_m, queue in (
        (feats[0], feats[2], feats[3], queues[1]),
        (feats[1], feats[3], feats[2], queues[0]),
    ):
        candidates = torch.cat([other_m, queue])
        for row, column in itertools.product(range(2), range(4)):
            if not ignored[row, column]:
                label = float((row, column) in {(0, 0), (0, 2), (1, 1)})
                chance, chance_m = (
                    float(torch.sigmoid(feat[row] @ candidates[column] / 0.2 - 3))
                    for feat in (own, own_m)
                )
                target = 0.7 * label + 0.3 * chance_m
                total -= target * math.log(chance) + (1 - target) * math.log(1 - chance)
    assert float(result.loss) == pytest.approx(total / 4)
    torch.testing.assert_close(result.targets_i2t[0, 1], torch.tensor(0.0))


@given(size=st.integers(2, 8), seed=st.integers(0, 1000))
def test_a_negative_is_never_barred(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sim = torch.randn(size, size, generator=generator) * 1000  # would underflow a plain softmax
    barred = torch.rand(size, size, generator=generator) < 0.4
    barred.fill_diagonal_(True)
    index, valid = hard_negatives(sim, barred, generator)
    assert torch.equal(valid, ~barred.all(dim=1))
    assert not barred[torch.arange(size), index][valid].any()


def test_equal_images_leave_no_negative_and_a_loss_of_the_positives_alone() -> None:
    barred = torch.ones(2, 2, dtype=torch.bool)
    _, valid = hard_negatives(torch.zeros(2, 2), barred)
    assert not valid.any()
    logits = torch.tensor([[0.0, 2.0], [9.0, 0.0]])
    loss = itm_loss(logits, torch.tensor([1, 1]), torch.tensor([True, False]))
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(logits[:1], torch.tensor([1]))
    )


def test_a_draw_is_that_of_multinomial() -> None:
    weights = torch.softmax(torch.randn(16, 16), dim=1)
    for seed in range(8):
        drawn = draw(weights, torch.Generator().manual_seed(seed))
        theirs = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(drawn, theirs.squeeze(1))


def test_no_masked_token_gives_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    loss = mlm_loss(logits, torch.full((2,), IGNORED), torch.randn(2, 5), 0.4)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_word_patch_alignment_is_the_contrast_of_softly_highest_looks_of_words_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against loops, in blocks, at any precision; neither padding nor either [CLS] takes part."""
    monkeypatch.setattr("albef.losses.wpa.CPU_BLOCK", 80)  # two of nine words at a time
    torch.manual_seed(0)
    query = torch.randn(3, 2, 4, 5, requires_grad=True)
    key = torch.randn(3, 2, 7, 5, requires_grad=True)
    mask, own = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]), torch.eye(3).bool()
    scores = torch.zeros(3, 3)
    for text in range(3):
        words = range(1, int(mask[text].sum()))
        for image in range(3):
            looks = [
                (query[text, head, word] * key[image, head, 1:]).sum(dim=1) / math.sqrt(5)
                for word in words
                for head in range(2)
            ]
            scores[text, image] = torch.stack([look.exp().sum().log() for look in looks]).mean()
    targets = torch.eye(3)
    expected = (soft_cross_entropy(scores, targets) + soft_cross_entropy(scores.t(), targets)) / 2
    loss = wpa_loss(query, key, mask, own)
    torch.testing.assert_close(loss, expected)
    with torch.autocast("cpu", torch.bfloat16):
        gradients = [torch.autograd.grad(of, [query, key]) for of in (loss, expected)]
    torch.testing.assert_close(*gradients)
    query, key = query.detach(), key.detach()
    query[:, :, 0], query[2, :, 2:], key[:, :, 0] = 9.0, 9.0, 9.0
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(wpa_loss(query, key, mask, own), expected)


def test_ranking_is_the_choice_of_the_true_text_between_two() -> None:
    """Against the cross-entropy of a choice by the log-odds of a match."""
    true, false = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    true.requires_grad_(True)
    chosen = torch.tensor([True, True, False, True, False, True])
    loss = ranking_loss(true, false, chosen)
    odds = torch.stack([pair[:, 1] - pair[:, 0] for pair in (true, false)], dim=1)
    first = torch.zeros(int(chosen.sum()), dtype=torch.long)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(odds[chosen], first))
    loss.backward()
    assert (true.grad[chosen, 1] < 0).all(), "a step makes the true text more likely"
    assert not true.grad[~chosen].any()
