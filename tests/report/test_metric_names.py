"""Names of metrics in words, and the order that they are shown in."""

from albef.report import metric_names


def test_a_metric_has_words_and_a_label() -> None:
    for name, *expected in (
        ("tr@1", "image to text, recall@1", "Image to text, recall@1"),
        ("itc_ir@10", "", "Text to image, recall@10, ITC alone"),
        ("accuracy_True", "correct answers, True", "Correct answers, True"),
        ("wpa", "", "Word-patch alignment"),
        ("mine", "", "mine"),
    ):  # fmt: skip
        shown = [metric_names.describe(name), metric_names.label(name)]
        assert shown == expected


def test_metrics_stand_in_the_order_of_the_table_and_those_of_itc_alone_last() -> None:
    names = ["r_mean", "accuracy", "tr@1", "tr@5", "tr@10", "ir@1", "a@2", "a@10", "itc_tr@1"]
    assert sorted({*names}, key=metric_names.order) == names
    assert metric_names.is_main("itc_tr@1")
    assert not metric_names.is_main("accuracy_count")
