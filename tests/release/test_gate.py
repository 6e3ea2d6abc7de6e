"""What the gate refuses, and with which sentence."""

import math
from dataclasses import replace

from albef.release.gate import Figures, ReleaseConfig, Row, contaminated, int8_loss, judge

GATE = ReleaseConfig(max_drop=1.0, max_slower=1.5, max_larger=1.2, max_contamination=0.01)
FULL = Figures({"accuracy": 80.0}, {1: 10.0, 8: 40.0}, 4_000_000)
SMALL = Figures({"accuracy": 78.5}, {1: 5.0, 8: 20.0}, 1_000_000)
BOTH = {"float32": FULL, "int8": SMALL}


def rows(new: dict[str, Figures], released: dict[str, Figures]) -> list[Row]:
    return list(judge(GATE, "accuracy", new, released))


def reasons(new: dict[str, Figures], released: dict[str, Figures]) -> list[str]:
    return [row.refused for row in rows(new, released) if row.refused]


def test_what_is_equal_passes_and_every_thing_is_shown() -> None:
    found = rows(BOTH, BOTH)
    assert [row[:2] for row in found] == [
        (what, name)
        for name in BOTH
        for what in ("accuracy", "ms, batch 1", "ms, batch 8", "MB", "change with batch")
    ] + [("accuracy lost", "int8")]
    assert found[0][2:6] == ("80.00", "80.00", "+0.00", "-1")
    assert found[2][2:6] == ("40", "40", "x 1.00", "x 1.5")
    assert found[-1][2:6] == ("1.50", "1.50", "+0.00", "2 in all")
    assert not reasons(BOTH, BOTH)
    worst = Figures({"accuracy": 79.0}, {1: 15.0, 8: 60.0}, 4_800_000)
    assert not reasons({"float32": worst}, {"float32": FULL}), "at the limits"


def test_beyond_a_limit_it_says_by_how_much() -> None:
    points = "points of accuracy ({} after 80.00), more than release.max_drop 1"
    for worse, says in (
        (replace(FULL, metrics={"accuracy": 78.9}), f"loses 1.10 {points.format('78.90')}"),
        (replace(FULL, metrics={"accuracy": math.nan}), f"loses nan {points.format('nan')}"),
        (
            replace(FULL, ms={1: 10.0, 8: 62.0}),
            "ms, batch 8: 62 is 1.55 times the released 40, more than release.max_slower 1.5",
        ),
        (
            replace(FULL, bytes=5_000_000),
            "MB: 5 is 1.25 times the released 4, more than release.max_larger 1.2",
        ),
    ):
        (reason,) = reasons({"float32": worse}, {"float32": FULL})
        assert reason.removeprefix("float32").lstrip(", ") == says


def test_a_precision_that_is_gone_is_a_reason_and_a_new_one_is_none() -> None:
    bad = Figures({"accuracy": 70.0}, {1: 100.0, 8: 400.0}, 40_000_000)
    *others, missing = reasons({"float32": bad}, BOTH)
    assert missing.startswith("int8 is missing")
    assert "export.runs.RUN.precisions" in missing
    assert len(others) == 4, "all reasons at once"
    assert not reasons(BOTH, {"float32": FULL})


def test_a_behaviour_test_that_fails_more_often_is_a_reason() -> None:
    before = {"float32": replace(FULL, behaviour={"count": 90.0, "synonym": 80.0})}
    new = {"float32": replace(FULL, behaviour={"count": 85.0, "synonym": 74.5})}
    found = [row for row in rows(new, before) if row.what.startswith("behaviour test")]
    assert found[0][:6] == ("behaviour test count", "float32", "90.00", "85.00", "-5.00", "-5")
    assert reasons(new, before) == [
        "float32 loses 5.50 points of behaviour test synonym (74.50 after 80.00), more than "
        "release.max_behaviour_drop 5"
    ]
    assert not reasons(new, {"float32": FULL}), "a test that is new has nothing to fall from"
    assert not reasons(new, {})


def test_the_loss_of_int8_stops_a_first_release_too() -> None:
    assert not reasons(BOTH, {})
    poor = {**BOTH, "int8": replace(SMALL, metrics={"accuracy": 77.0})}
    (says,) = reasons(poor, {})
    assert says == "int8 loses 3.00 points of accuracy, more than release.max_int8_loss 2"
    assert all(row.released == row.change == "" for row in rows(poor, {}))
    assert int8_loss(BOTH, "accuracy") == 1.5
    assert int8_loss({"float16": FULL, "int8": SMALL}, "accuracy") == 1.5
    assert int8_loss({"int8": SMALL}, "accuracy") is None
    assert int8_loss({"float32": FULL}, "accuracy") is None


def test_answers_that_depend_on_their_batch_stop_a_first_release_too() -> None:
    for value in (2e-3, math.nan):
        (says,) = reasons({**BOTH, "int8": replace(SMALL, batch_effect=value)}, {})
        assert f"int8: an answer changes by {value:.1e}" in says
        assert "release.max_batch_effect 0.001; remove int8 from export.runs.RUN.prec" in says
    (row,) = [
        row
        for row in rows({"int8": replace(SMALL, batch_effect=1e-3)}, BOTH)
        if "batch" in row[0] and "change" in row[0]
    ]
    assert row[:7] == ("change with batch", "int8", "0.0e+00", "1.0e-03", "", "0.001", "")


def test_test_records_that_were_trained_on_are_counted_once_and_bounded() -> None:
    row = contaminated(GATE, 200, {"web": (), "scenes": ("a", "b")})
    assert row[1:6] == ("", "", "2 of 200", "", "1 %")
    assert row.refused == ""
    row = contaminated(GATE, 200, {"web": ("b", "c"), "scenes": ("a", "b")})
    assert row.new == "3 of 200"
    assert "3 of 200 test records" in row.refused
    assert "(web: 2, such as b; scenes: 2, such as a)" in row.refused
    assert "release.max_contamination 0.01; set `screened: true`" in row.refused
    assert contaminated(GATE, 200, {}).new == "0 of 200"
