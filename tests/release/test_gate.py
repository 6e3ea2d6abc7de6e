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
    first = rows(BOTH, {})
    assert not [row for row in first if row.refused or row.released or row.change]
    assert not reasons(BOTH, {"float32": FULL}), "a precision may be new"


def test_beyond_a_limit_it_says_by_how_much() -> None:
    points = "points of {} ({} after {}), more than release."
    accuracy = points.format("accuracy", "{}", "80.00") + "max_drop 1"
    tested = replace(FULL, behaviour={"count": 90.0, "synonym": 80.0})
    synonym = points.format("behaviour test synonym", "74.50", "80.00") + "max_behaviour_drop 5"
    for worse, before, says in (
        (replace(FULL, metrics={"accuracy": 78.9}), FULL, f"loses 1.10 {accuracy.format('78.90')}"),
        (
            replace(FULL, metrics={"accuracy": math.nan}),
            FULL,
            f"loses nan {accuracy.format('nan')}",
        ),
        (
            replace(FULL, ms={1: 10.0, 8: 62.0}),
            FULL,
            "ms, batch 8: 62 is 1.55 times the released 40, more than release.max_slower 1.5",
        ),
        (
            replace(FULL, bytes=5_000_000),
            FULL,
            "MB: 5 is 1.25 times the released 4, more than release.max_larger 1.2",
        ),
        (
            replace(FULL, behaviour={"count": 85.0, "synonym": 74.5, "new": 0.0}),
            tested,
            f"loses 5.50 {synonym}",
        ),
    ):
        (reason,) = reasons({"float32": worse}, {"float32": before})
        assert reason.removeprefix("float32").lstrip(", ") == says
    bad = Figures({"accuracy": 70.0}, {1: 100.0, 8: 400.0}, 40_000_000)
    *others, missing = reasons({"float32": bad}, BOTH)
    assert missing.startswith("int8 is missing")
    assert "export.runs.RUN.precisions" in missing
    assert len(others) == 4, "all reasons at once"


def test_int8_and_the_batch_stop_a_first_release_too() -> None:
    for worse, says in (
        ({"metrics": {"accuracy": 77.0}}, "int8 loses 3.00 points of accuracy, more than release."),
        ({"batch_effect": 2e-3}, "int8: an answer changes by 2.0e-03"),
        (
            {"batch_effect": math.nan},
            "release.max_batch_effect 0.001; remove int8 from export.runs.RUN.prec",
        ),
    ):
        (reason,) = reasons({**BOTH, "int8": replace(SMALL, **worse)}, {})
        assert says in reason
    assert not reasons({"int8": replace(SMALL, batch_effect=1e-3)}, {})
    assert int8_loss(BOTH, "accuracy") == 1.5
    assert int8_loss({"float16": FULL, "int8": SMALL}, "accuracy") == 1.5
    assert int8_loss({"int8": SMALL}, "accuracy") is None
    assert int8_loss({"float32": FULL}, "accuracy") is None


def test_test_records_that_were_trained_on_are_counted_once_and_bounded() -> None:
    row = contaminated(GATE, 200, {"web": (), "scenes": ("a", "b")})
    assert row[1:6] == ("", "", "2 of 200", "", "1 %")
    assert row.refused == ""
    row = contaminated(GATE, 200, {"web": ("b", "c"), "scenes": ("a", "b")})
    assert row.new == "3 of 200"
    for says in (
        "3 of 200 test records",
        "(web: 2, such as b; scenes: 2, such as a)",
        "release.max_contamination 0.01; set `screened: true`",
    ):
        assert says in row.refused
