"""Which metric stands where, and beside what."""

from albef.report.sections.results import SplitResult


def test_metrics_are_in_a_readers_order_beside_those_of_itc_and_the_headline_is_first() -> None:
    names = ["ir@1", "ir@10", "ir@5", "r_mean", "tr@1", "tr@10", "tr@5"]
    metrics = dict.fromkeys(names, 50.0) | {f"itc_{name}": 40.0 for name in names}
    rows = SplitResult("test", metrics, {"tr@1": 0.2}, {"tr@1": 0.3}, {"tr@1": 0.1}).rows()
    assert [row.name for row in rows] == [
        "r_mean", "tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10",
    ]  # fmt: skip
    assert all(row.itc == 40.0 for row in rows)
    assert (rows[1].chance, rows[1].random_weights, rows[1].text_only) == (0.2, 0.3, 0.1)
    assert rows[0].chance is None
    split = SplitResult("test", {"bleu": 12.0, "rouge": 34.0}, headline="rouge")
    assert [(row.name, row.description) for row in split.rows()] == [("rouge", ""), ("bleu", "")]
    assert SplitResult("test", {}).first is None


def test_itc_stands_alone_without_a_partner_and_not_beside_itself() -> None:
    assert [row.name for row in SplitResult("a", {"itc_x": 1.0}).rows()] == ["itc_x"]
    same = SplitResult("test", {"tr@1": 5.0, "itc_tr@1": 5.0})  # nothing was re-ranked
    assert [(row.name, row.itc) for row in same.rows()] == [("tr@1", None)]
