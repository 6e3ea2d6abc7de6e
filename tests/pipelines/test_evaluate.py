"""What the evaluation of a run covers."""

import pytest

from pipelines.evaluate import splits_of


def test_the_wanted_splits_that_are_there_are_evaluated_in_their_order() -> None:
    assert splits_of(["test", "pairs"], ["train", "pairs", "test"]) == ["test", "pairs"]
    assert splits_of(["test"], ["train", "val"]) == ["val"]
    for wanted, message in (
        ("behaviour", "split behaviour has the name of a section"),
        ("chance", "rename the split"),
        ("tset", "evaluate.splits names tset, but the dataset has only train, test"),
    ):
        with pytest.raises(ValueError, match=message):
            splits_of([wanted], ["train", "test"])
