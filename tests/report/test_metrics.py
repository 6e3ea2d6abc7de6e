"""Which metric stands where, and beside what."""

from albef.report.metrics import flatten, headline, rows, words
from albef.report.results import SplitResult


def test_recalls_are_in_a_readers_order_beside_those_of_itc() -> None:
    names = ["ir@1", "ir@10", "ir@5", "r_mean", "tr@1", "tr@10", "tr@5"]
    metrics = dict.fromkeys(names, 50.0) | {f"itc_{name}": 40.0 for name in names}
    split = SplitResult("test", 5, metrics, {"tr@1": 0.2}, {"tr@1": 0.3})
    found = rows(split)
    assert [row.name for row in found] == [
        "r_mean", "tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10",
    ]  # fmt: skip
    assert all(row.itc == 40.0 for row in found)
    assert (found[1].chance, found[1].random_weights) == (0.2, 0.3)
    assert found[0].chance is None


def test_what_the_text_alone_gives_away_stands_beside_its_metric() -> None:
    split = SplitResult("test", 5, {"accuracy": 60.0}, {}, {}, text_only={"accuracy": 40.0})
    assert [row.text_only for row in rows(split)] == [40.0]


def test_a_metric_of_a_kind_to_come_is_shown_too() -> None:
    split = SplitResult("test", 5, {"bleu": 12.0, "perplexity": 340.0}, {}, {})
    assert [row.name for row in rows(split)] == ["bleu", "perplexity"]
    assert [row.percent for row in rows(split)] == [True, False]
    first = headline(split)
    assert first is not None
    assert first.name == "bleu"
    assert words("bleu") == ""


def test_the_headline_is_the_primary_metric() -> None:
    first = headline(SplitResult("a", 0, {"accuracy_count": 1.0, "accuracy": 2.0}, {}, {}))
    assert first is not None
    assert first.name == "accuracy"
    assert headline(SplitResult("a", 0, {}, {}, {})) is None


def test_an_itc_metric_without_a_partner_stands_alone() -> None:
    assert [row.name for row in rows(SplitResult("a", 0, {"itc_x": 1.0}, {}, {}))] == ["itc_x"]


def test_nested_values_have_dotted_names() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_without_re_ranking_itc_is_not_shown_beside_itself() -> None:
    split = SplitResult("test", 5, {"tr@1": 5.0, "itc_tr@1": 5.0}, {}, {})
    assert [(row.name, row.itc) for row in rows(split)] == [("tr@1", None)]
