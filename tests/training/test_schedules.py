"""Learning rate by step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from albef.training.schedules import cosine

VALUES = {"lr": 1e-3, "min_lr": 1e-5, "warmup_steps": 10}


def test_warm_up_ends_at_the_base_rate_and_the_cosine_at_the_lowest() -> None:
    assert math.isclose(cosine(9, 100, **VALUES), 1e-3)
    assert math.isclose(cosine(10, 100, **VALUES), 1e-3)
    assert math.isclose(cosine(55, 100, **VALUES), (1e-3 + 1e-5) / 2)
    assert math.isclose(cosine(100, 100, **VALUES), 1e-5)


@given(step=st.integers(0, 200), total=st.integers(1, 200), warmup=st.integers(0, 300))
def test_the_rate_stays_within_its_bounds(step: int, total: int, warmup: int) -> None:
    rate = cosine(min(step, total - 1), total, lr=1e-3, min_lr=1e-5, warmup_steps=warmup)
    assert 1e-5 <= rate <= 1e-3 * (1 + 1e-12)
