"""A ladder's table: means, steps by seed, and the word on whether they are resolved."""

import math

import pytest

from albef.config import ParamsError, validate
from albef.evaluation.statistics import Interval
from albef.report.ablation import Ladder, Table, format_step, render_markdown

LADDER = {
    "run": "retrieval",
    "metrics": [{"split": "test", "name": "r_mean", "title": "recall"}],
    "rungs": [
        {"name": "low", "title": "Low", "values": {"pretrain.itc": False}},
        {"name": "high", "title": "+ High", "values": {}},
    ],
    "claims": [{"title": "height", "before": "low", "after": "high"}],
}
VALUES = {  # noise, seed: low and high
    (0.0, 1): (10.0, 12.0),
    (0.0, 2): (20.0, 23.0),
    (0.0, 3): (30.0, 34.0),
    (0.4, 1): (5.0, 15.0),
    (0.4, 2): (9.0, 3.0),
    (0.4, 3): (1.0, 12.0),
}


def ladder() -> Ladder:
    return validate(Ladder, LADDER, where="tests")


def table(wanted: int = 12, **only: float) -> Table:
    results = {
        (rung, noise, seed): {"test": {"r_mean": value}, "chance": {"test": {"r_mean": 1.2}}}
        for (noise, seed), both in VALUES.items()
        for rung, value in zip(("low", "high"), both, strict=True)
        if noise == only.get("noise", noise)
    }
    return Table(ladder(), results, wanted)


RECALL = ladder().metrics[0]


def test_a_step_is_taken_seed_by_seed() -> None:
    found = table().step("low", "high", 0.0, RECALL)
    assert found is not None
    difference, interval = found
    assert difference == pytest.approx(3.0)  # of 2, 3 and 4, whose deviation is 1
    half = 4.302653 / math.sqrt(3)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert table().by_seed("low", 0.0, RECALL) == {1: 10.0, 2: 20.0, 3: 30.0}


def test_a_change_with_noise_is_taken_seed_by_seed_too() -> None:
    found = table().change("low", "high", RECALL)
    assert found is not None
    assert found[0] == pytest.approx(5.0 - 3.0)  # steps 10, -6, 11 less 2, 3, 4
    only = table(noise=0.4)
    assert only.change("low", "high", RECALL) is None
    assert [len(header) for header, _ in only.blocks(RECALL)] == [3, 2]  # no noises to compare


def test_seeds_that_one_of_two_rungs_lacks_are_left_out_of_their_step() -> None:
    full = table()
    lacking = {key: it for key, it in full.results.items() if key[::2] != ("high", 2)}
    cut = Table(full.ladder, lacking, 12)
    found = cut.step("low", "high", 0.0, RECALL)
    assert found is not None
    assert found[0] == pytest.approx(3.0)  # of 2 and 4
    assert cut.seeds() == "2 to 3"
    one = Table(full.ladder, dict([*full.results.items()][:2]), 12)
    assert one.step("low", "high", 0.0, RECALL) == (2.0, None)
    assert one.step("low", "high", 0.4, RECALL) is None


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (None, ""),
        ((-1.5, None), "−1.50"),
        ((2.0, Interval(0.5, 3.5)), "+2.00 (+0.50 to +3.50) resolved"),
        ((-2.0, Interval(-3.5, -0.5)), "−2.00 (−3.50 to −0.50) resolved"),
        ((2.0, Interval(-0.5, 4.5)), "+2.00 (−0.50 to +4.50)"),
    ],
)
def test_resolved_is_an_interval_without_zero(
    step: tuple[float, Interval | None] | None, words: str
) -> None:
    assert format_step(step) == words


def test_the_page_says_what_is_resolved_and_what_is_missing() -> None:
    page = render_markdown(table())
    assert "| Low | 20.00 ± 10.00 |  | 5.00 ± 4.00 |  |" in page
    assert "**+3.00 (+0.52 to +5.48)**" in page
    assert "chance 1.20" in page
    assert "Not finished" not in page
    assert "**Not finished: 12 of 36 trainings.**" in render_markdown(table(wanted=36))
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows[:4]} == {7}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"rungs": LADDER["rungs"][:1]}, "rungs"),  # type: ignore[index]
        ({"metrics": []}, "metrics"),
        ({"steps": 1}, "steps is not a known key"),
        ({"claims": [{"title": "x", "before": "low", "after": "top"}]}, "top, which is no rung"),
    ],
)
def test_a_wrong_ladder_is_a_sentence(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParamsError, match=sentence):
        validate(Ladder, LADDER | changed, where="tests")
