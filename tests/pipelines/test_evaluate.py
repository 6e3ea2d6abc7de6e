"""What the evaluation of a run covers."""

import pytest

from pipelines.evaluate import splits_of


def test_the_wanted_splits_that_are_there_are_evaluated_in_their_order() -> None:
    assert splits_of(["test", "pairs"], {"train": 1, "pairs": 1, "test": 1}) == ["test", "pairs"]


def test_where_there_is_none_of_them_val_is_and_it_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="albef")
    assert splits_of(["test"], {"train": 1, "val": 1}) == ["val"]
    assert "no split of evaluate.splits is in this data set: val is evaluated" in caplog.text


def test_a_split_may_not_have_the_name_of_the_behaviour_tests() -> None:
    with pytest.raises(ValueError, match="a split that is evaluated cannot be called behaviour"):
        splits_of(["behaviour"], {"train": 1, "behaviour": 1})


def test_nothing_to_evaluate_is_told() -> None:
    with pytest.raises(ValueError, match="splits are tset, but the data set has train, test"):
        splits_of(["tset"], {"train": 1, "test": 1})
