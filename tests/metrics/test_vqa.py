"""VQA accuracy and chance on tables written by hand."""

import pytest

from albef.metrics import vqa
from albef.tasks.task import Table
from albef.tasks.vqa_accuracy import vqa_accuracy

TABLE: Table = {
    "answer": ["yes", "Two", "3", "fox", "cat"],
    "truths": [["yes"], ["2"], ["two"], ["dog", "fox"], []],
    "type": ["yes/no", "count", "count", None, "count"],
}


def test_an_answer_is_right_or_wrong_or_judged_by_annotators() -> None:
    made = vqa.score(TABLE)
    assert made == {"accuracy": 75.0, "accuracy_count": 50.0, "accuracy_yes_no": 100.0}
    table = {
        "answer": ["cat", "dog"],
        "truths": [["cat"], ["dog"]],
        "annotators": [["cat", "cat"] + [f"{i}" for i in range(8)], None],
    }
    assert vqa.score(table) == {"accuracy": pytest.approx(80.0)}
    hidden: Table = {"answer": ["cat"], "truths": [[]]}
    assert vqa.score(hidden) == vqa.chance(hidden) == {}


def test_chance_guesses_among_the_answers_of_a_type() -> None:
    table: Table = {
        "answer": ["x"] * 4,
        "truths": [["yes"], ["no"], ["two"], ["2"]],
        "type": ["yes/no", "yes/no", "count", "count"],
    }
    assert vqa.chance(table) == {
        "accuracy": 75.0, "accuracy_count": 100.0, "accuracy_yes_no": 50.0
    }  # fmt: skip
    table = {
        "answer": ["x", "x"],
        "truths": [["cat"], ["dog"]],
        "annotators": [["cat"] * 8 + ["dog"] * 2, ["dog"] * 5 + ["cow"] * 5],
    }
    # of cat and dog: 1 and 0.6 on the first, 0 and 1 on the second
    assert vqa.chance(table) == {"accuracy": pytest.approx(100 * (1.6 / 2 + 1 / 2) / 2)}


def test_chance_adds_up_in_the_same_order_in_every_process() -> None:
    """The order of a set of strings, and with it the last digit of a sum, differs by process."""
    for i in range(40):
        words = [f"{letter}{i}" for letter in "abcdef"]
        annotators = [word for word in words for _ in range("abbcccdeef".count(word[0]))]
        table: Table = {"answer": ["x"] * 6, "annotators": [annotators] * 6}
        table["truths"] = [[word] for word in words]
        in_order = sum(vqa_accuracy(word, annotators) for word in words) / 6
        assert vqa.chance(table)["accuracy"] == 100 * sum([in_order] * 6) / 6
