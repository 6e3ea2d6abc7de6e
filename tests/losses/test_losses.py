"""The losses on hand-written cases."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.losses.distill import soft_targets
from albef.losses.itc import (
    contrast,
    describes,
    one_hot_targets,
    same_image_targets,
    similarities,
    soft_cross_entropy,
)
from albef.losses.itm import draw, hard_negatives, itm_loss
from albef.losses.mlm import IGNORED, mlm_loss
from albef.losses.wpa import wpa_loss
from tests.conftest import NEEDS_CUDA


def test_soft_cross_entropy_of_a_uniform_guess_is_the_log_of_the_classes() -> None:
    loss = soft_cross_entropy(torch.zeros(3, 8), torch.eye(3, 8))
    assert math.isclose(float(loss), math.log(8), rel_tol=1e-6)


def test_soft_targets_mix_and_carry_no_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    targets = soft_targets(torch.tensor([[1.0, 0.0]]), logits, 0.4)
    torch.testing.assert_close(targets, torch.tensor([[0.8, 0.2]]))
    assert not targets.requires_grad


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
    torch.testing.assert_close(contrast(*feats, *given).loss, contrast(*feats, *short).loss)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_similarities_are_float32_under_autocast(device: str) -> None:
    feat = torch.nn.functional.normalize(torch.randn(6, 64, device=device), dim=1)
    given = feat, feat[:4], feat[4:], torch.tensor(80.0, device=device)
    exact = similarities(*given)
    with torch.autocast(device, torch.bfloat16):
        under = similarities(*given)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, exact, rtol=0, atol=0)


def test_contrast_without_queue_is_clips_loss() -> None:
    feat = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.manual_seed(0)), dim=1)
    none = torch.zeros(0, 6)
    temperature = torch.tensor(0.5)
    hard = one_hot_targets(4, 4, feat.device)
    result = contrast(feat, feat, feat, feat, none, none, temperature, hard, 0.0)
    expected = torch.nn.functional.cross_entropy(feat @ feat.t() / 0.5, torch.arange(4))
    torch.testing.assert_close(result.loss, expected)


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


def test_mlm_counts_masked_positions_only() -> None:
    logits = torch.randn(3, 5, generator=torch.manual_seed(1))
    labels = torch.tensor([2, IGNORED, 4])
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([2, 4]))
    torch.testing.assert_close(mlm_loss(logits, labels, None, 0.0), expected)
    torch.testing.assert_close(mlm_loss(logits, labels, logits, 0.0), expected)


def test_word_patch_alignment_is_the_contrast_of_softly_highest_looks_of_words_alone() -> None:
    """Against loops, at any precision; neither padding nor either [CLS] takes part."""
    torch.manual_seed(0)
    query, key = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 7, 5)
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
    torch.testing.assert_close(wpa_loss(query, key, mask, own), expected)
    query[:, :, 0], query[2, :, 2:], key[:, :, 0] = 9.0, 9.0, 9.0
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(wpa_loss(query, key, mask, own), expected)
