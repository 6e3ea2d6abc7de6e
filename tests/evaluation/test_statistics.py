"""Intervals and the exact test, on tables written by hand and in properties that must hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from albef.evaluation.statistics import (
    CONFIDENCE,
    Interval,
    between,
    holm,
    mcnemar,
    paired_interval,
    proportion,
    spread,
)

differences = st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=12)


def test_mcnemar_counts_what_is_as_uneven_or_more() -> None:
    flips = {(0, 0): 1.0, (5, 5): 1.0, (9, 1): 22 / 1024, (1, 9): 22 / 1024, (6, 0): 2 / 64}
    assert {pair: mcnemar(*pair) for pair in flips} == pytest.approx(flips)


@pytest.mark.parametrize(("passed", "of"), [(0, 7), (7, 7), (0, 1), (177, 200), (1, 3)])
def test_the_interval_of_a_share_is_wilsons(passed: int, of: int) -> None:
    expected = binomtest(passed, of).proportion_ci(CONFIDENCE, method="wilson")
    found = proportion(passed, of)
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_holm_corrects_the_smallest_p_most_and_keeps_their_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@settings(max_examples=25)
@given(differences)
def test_an_interval_turns_round_with_its_differences_and_holds_none_beyond_them(
    values: list[float],
) -> None:
    units = range(len(values))
    found = paired_interval(values, units, resamples=200)
    turned = paired_interval([-v for v in values], units, resamples=200)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert min(values) <= found.low <= found.high <= max(values)


@settings(max_examples=25)
@given(differences, st.integers(2, 5))
def test_asking_the_same_of_an_image_again_proves_nothing_more(
    values: list[float], times: int
) -> None:
    units = list(range(len(values)))
    once = paired_interval(values, units, resamples=100)
    again = paired_interval(values * times, units * times, resamples=100)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    generator, held = np.random.default_rng(3), 0
    for _ in range(300):
        units = np.repeat(np.arange(60), 3)  # three questions to each picture, alike among them
        values = (generator.normal(0.2, 1, 60)[units] + generator.normal(0, 0.5, 180)).round(2)
        found = paired_interval(values, units, resamples=300)
        held += found.low <= 0.2 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_parts_of_any_size_count_alike() -> None:
    found = paired_interval([1.0] + [0.0] * 9, [0] * 10, [0] + [1] * 9)
    assert (found.low, found.high) == (0.5, 0.5)


def test_one_seed_has_no_interval_and_three_have_students() -> None:
    assert spread([5.0]).interval is None
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation) == (2.0, 1.0)
    assert found.interval is not None
    assert found.interval.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)  # t of 2 degrees


def test_equal_seeds_are_compared_seed_by_seed_and_others_by_welch() -> None:
    difference, interval = between({1: 10.0, 2: 20.0, 3: 30.0}, {3: 31.0, 2: 21.0, 1: 11.0})
    assert (difference, interval) == (1.0, Interval(1.0, 1.0))
    difference, interval = between({1: 10.0, 2: 20.0, 3: 30.0}, {4: 11.0, 5: 21.0, 6: 31.0})
    assert difference == pytest.approx(1.0)
    assert interval is not None
    half = 2.776445 * (2 * 100 / 3) ** 0.5  # Welch's of equal variances: t of 4 degrees
    assert interval.high == pytest.approx(1 + half, abs=1e-3)
    assert between({1: 10.0, 2: 20.0}, {3: 12.0}) == (-3.0, None)
    assert between({1: 1.0, 2: 1.0}, {3: 2.0, 4: 2.0}) == (1.0, Interval(1.0, 1.0))
