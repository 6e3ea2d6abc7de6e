"""The baseline that never sees a picture: what it can learn, and what it cannot."""

import random
from pathlib import Path
from typing import Any

from albef.evaluation.text_only import Row, TextOnly, read, score
from albef.tasks import grounding, vqa
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


def test_it_reads_clean_words_in_order_or_takes_the_most_frequent_answer() -> None:
    model = TextOnly([Row("a left B!", "a"), Row("b LEFT a", "b")] * 20)
    assert model.guess([Row("a left b", ""), Row("b left a?", "")]) == ["a", "b"]
    model = TextOnly([Row("?", "no"), Row("!", "yes"), Row("...", "yes")])
    assert model.guess([Row("?", ""), Row("a new one", "")]) == ["yes", "yes"]


def test_nothing_to_guess_has_no_score() -> None:
    assert score([], rows(3, 1)) == {}
    assert score(rows(3, 1), []) == {}
    assert score([Row("a", "")], rows(3, 1)) == {}


def test_the_likeliest_of_a_rows_own_choices_is_taken() -> None:
    """What is offered often is not likelier for that, and equal choices share the right one."""
    train = [Row("left", "l", "", ("l", "r", "r", "r")), Row("any", "r", "", ("l", "r", "r", "r"))]
    model = TextOnly(train * 20 + [Row("left", "", "", ("r",))])
    test = [
        Row("any", "?", "", ("r", "l")),
        Row("left", "?", "", ("r", "l", "r")),
        Row("left", "?", "", ("r", "new")),
        Row("left", "?", "", ("new",)),
    ]
    assert model.guess(test) == ["r", "l", "r", "l"]
    even = [Row("it", "l", "", ("l", "r", "r", "r"))] * 10 + [
        Row("it", "r", "", ("l", "r", "r", "r"))
    ] * 30
    assert TextOnly(even[:20]).guess(even[:1]) == ["l"]
    assert score([Row("it", "r", "", ("r",) * 4)], [Row("it", "r", "", ("r",) * 4)]) == {
        "accuracy": 25.0
    }


def test_rows_come_from_the_index_and_no_image_is_read(tmp_path: Path) -> None:
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
    found = read(tmp_path / "toy", "train", vqa.Task)
    assert found == [Row("is there a dog", "yes", "yes/no"), Row("what", "fox", "")]


def test_the_choices_of_grounding_are_the_places_of_its_boxes(tmp_path: Path) -> None:
    boxes = [[0, 0, 20, 12], [20, 0, 20, 12], [0, 12, 20, 3]]
    metas: list[dict[str, Any]] = [
        {"box": [20, 1, 20, 12], "proposals": boxes, "type": "name"},
        {"box": [0, 30, 9, 9], "proposals": boxes},
        {"box": [0, 30, 9, 9]},
    ]
    write(tmp_path / "toy", [record(i, meta=meta) for i, meta in enumerate(metas)])
    places = ("0 0 0", "2 0 0", "0 2 2")
    first, second = read(tmp_path / "toy", "train", grounding.Task)
    assert first == Row(" ".join(record(0).captions), "2 0 0", "name", places)
    assert second[1:] == ("", "", places)
