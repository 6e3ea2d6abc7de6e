"""What the evaluation of a run covers."""

import pytest

from pipelines.evaluate import splits_of


def test_the_wanted_splits_that_are_there_are_evaluated_in_their_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert splits_of(["test", "pairs"], ["train", "pairs", "test"]) == ["test", "pairs"]
    caplog.set_level("INFO", logger="albef")
    assert splits_of(["test"], ["train", "val"]) == ["val"]
    assert "no split of evaluate.splits is in this data set: val is evaluated" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("behaviour", "a split that is evaluated cannot be called behaviour"),
        ("tset", "splits are tset, but the data set has train, test"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(wanted: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        splits_of([wanted], ["train", "test"])
