"""The built-in questions: true, balanced, and about scenes of one split only."""

import re
from collections import Counter

from albef.builtin import openmoji, questions
from albef.builtin.describe import INVERSE, Scene
from albef.evaluation.text_only import Row, score
from tests.builtin.drawn import draw, of, scene_of

THINGS = {thing.name: thing for thing in openmoji.things(24)}
NAMES = {word: name for name, thing in THINGS.items() for word in (name, thing.plural)}


def answer(question: str, scene: Scene) -> str:
    """The answer to a question, from its words and the scene alone."""
    counts = {group.name: group.count for group in scene.groups}
    if match := re.fullmatch(r"(?:is there|does the picture show) an? (.+)\?", question):
        return "yes" if match[1] in counts else "no"
    if match := re.fullmatch(r"how many (.+?) (?:are there|does the picture show)\?", question):
        return ("none", "one", "two", "three")[counts.get(NAMES[match[1]], 0)]
    first, second = (group.name for group in scene.groups)
    assert scene.relation is not None
    relations = {(first, second): scene.relation, (second, first): INVERSE[scene.relation]}
    if match := re.fullmatch(r"where (?:is|are) the (.+), seen from the (.+)\?", question):
        return relations.get((NAMES[match[1]], NAMES[match[2]]), "none")
    match = re.fullmatch(r"what is (left of|right of|above|below) the (.+)\?", question)
    assert match, question
    relation, seen_from = match[1].removesuffix(" of"), NAMES[match[2]]
    if seen_from not in counts:
        return "none"
    return next(a for (a, b), held in relations.items() if held == relation and b == seen_from)


def test_every_answer_is_true() -> None:
    for record in draw("questions"):
        (question,) = record.captions
        assert record.meta["answers"] == {answer(question, scene_of(record)): 1.0}, question


def test_a_fifth_of_the_other_questions_is_about_what_is_not_shown() -> None:
    for kind in ("count", "object", "relation"):
        made = [record for record in draw("questions") if record.meta["type"] == kind]
        missing = sum("none" in record.meta["answers"] for record in made)
        assert 0.1 < missing / len(made) < 0.3, kind


def test_each_scene_has_its_questions_and_evaluated_scenes_differ() -> None:
    made = draw("questions")
    assert set(Counter(record.image_id for record in made).values()) == {4}
    assert [record.meta["question_id"] for record in made] == list(range(len(made)))
    kinds = Counter(record.meta["type"] for record in made)
    assert kinds == dict.fromkeys(questions.TYPES, len(made) // 4)
    for split in ("val", "test"):
        texts = {record.image_id: scene_of(record).text() for record in of(made, split)}
        assert len(set(texts.values())) == len(texts)


def test_the_text_alone_gives_little_away() -> None:
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for record in draw("questions"):
        (answer,) = record.meta["answers"]
        rows[record.split].append(Row(record.captions[0], answer, record.meta["type"]))
    scores = score(rows["train"], rows["test"])
    for kind, chance in (("existence", 50), ("count", 33), ("object", 5), ("relation", 25)):
        assert scores[f"accuracy_{kind}"] < chance + 14, kind


def test_fewer_questions_take_turns() -> None:
    few = draw("questions", questions=3, splits={"train": 4})
    assert [record.meta["type"] for record in few] == list(questions.TYPES) * 3
