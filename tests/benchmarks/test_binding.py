"""What docs/learning.md says of the order of two things, where image tokens are ideal."""

import numpy as np
import pytest

from benchmarks.binding import Case, learn


@pytest.mark.slow
@pytest.mark.parametrize(("wpa", "least", "most"), [(False, 0.4, 0.6), (True, 0.9, 1.0)])
def test_an_order_is_learned_once_words_are_asked_to_find_their_tokens(
    wpa: bool, least: float, most: float
) -> None:
    shares = np.array(learn(Case("", wpa=wpa), steps=600, seed=1))[-50:, 0]
    assert least < shares.mean() <= most
