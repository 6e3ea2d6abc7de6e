"""The baseline that never sees a picture: what it can learn, and what it cannot."""

import random
from pathlib import Path

import torch

from albef.tasks.text_only import Row, TextOnly, read, score
from tests.data.toy import record, write

WORDS = [f"word{i}" for i in range(20)]


def rows(count: int, seed: int) -> list[Row]:
    """Questions that give their answer away, and, in group "coin", questions that do not."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        word = rng.choice(WORDS)
        if rng.random() < 0.5:
            made.append(Row(f"What is next to the {word}?", f"not {word}", "told"))
        else:
            made.append(Row(f"Is there a {word}?", rng.choice(["yes", "no"]), "coin"))
    return made


def test_it_learns_what_the_text_tells_and_nothing_else() -> None:
    found = score(rows(600, 1), rows(400, 2))
    assert found["accuracy_told"] == 100
    assert 35 < found["accuracy_coin"] < 65
    assert list(found) == ["accuracy", "accuracy_coin", "accuracy_told"]
    test = rows(400, 2)
    told = sum(row.group == "told" for row in test)
    both = told * found["accuracy_told"] + (len(test) - told) * found["accuracy_coin"]
    assert abs(found["accuracy"] - both / len(test)) < 1e-9


def test_the_order_of_words_counts() -> None:
    train = [Row("a left b", "a"), Row("b left a", "b")] * 20
    assert TextOnly(train).guess(["a left b", "b left a"]) == ["a", "b"]


def test_it_reads_the_cleaned_text() -> None:
    model = TextOnly([Row("Dogs!", "yes"), Row("CATS?", "no")] * 10)
    assert model.guess(["dogs", "cats"]) == ["yes", "no"]


def test_the_gradient_is_that_of_the_loss() -> None:
    """At the optimum of the regression with its prior, autograd's gradient is zero."""
    given = [Row("x y", "a"), Row("x z", "b"), Row("y z", "c"), Row("x", "a")]
    model = TextOnly(given)
    counts = torch.tensor(
        [[row.text.split().count(g) + 0.0 if " " not in g else float(g in row.text)
          for g in model._features] for row in given]
    )  # fmt: skip
    weight, bias = model._weight.clone().requires_grad_(), model._bias.clone().requires_grad_()
    labels = torch.tensor([model._answers.index(row.answer) for row in given])
    losses = torch.nn.functional.cross_entropy(counts @ weight + bias, labels, reduction="sum")
    (losses + 0.5 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 5e-3


def test_equal_rows_give_equal_models() -> None:
    first, second = TextOnly(rows(300, 1)), TextOnly(rows(300, 1))
    assert torch.equal(first._weight, second._weight)


def test_texts_without_a_word_get_the_most_frequent_answer() -> None:
    model = TextOnly([Row("?", "no"), Row("!", "yes"), Row("...", "yes")])
    assert model.guess(["?", "a new one"]) == ["yes", "yes"]


def test_nothing_to_guess_is_no_score() -> None:
    assert score([], rows(3, 1)) == {}
    assert score(rows(3, 1), []) == {}


def test_rows_come_from_the_index_and_no_picture_is_read(tmp_path: Path) -> None:
    first = {"answers": {"yes": 1.0}, "type": "yes/no"}
    records = [
        record(0, captions=("is there a dog",), meta=first),
        record(1, captions=("what",), meta={"answers": {"fox": 1.0}}),
        record(2, captions=("a dog",)),
        record(3, split="test"),
    ]
    write(tmp_path / "toy", records)
    for shard in (tmp_path / "toy" / "shards").iterdir():
        shard.unlink()
    found = read(tmp_path / "toy", "train", lambda r: next(iter(r.meta.get("answers", {})), None))
    assert found == [Row("is there a dog", "yes", "yes/no"), Row("what", "fox", "")]
