"""German captions of scenes, and the behavior tests for them."""

import random
from pathlib import Path

from albef.builtin.describe import Group, Scene, scenes
from albef.builtin.german import caption, name
from albef.builtin.openmoji import MOST, things
from albef.data.record import Record
from albef.evaluation.behaviour.cases import make_cases
from albef.evaluation.behaviour.judging import prepare
from albef.evaluation.behaviour.suite import BehaviourConfig, read_suite
from albef.loading.reading import Records
from albef.tasks.retrieval import Task
from tests.builtin.drawn import draw, of

GERMAN = Path(__file__).parents[2] / "behaviour/german.json"
NAMES = {thing.name: thing for thing in things(MOST)}
FROGS, FOX = Group("frog", 2), Group("fox", 1)


def texts(scene: Scene) -> set[str]:
    return {caption(scene, NAMES, random.Random(seed)) for seed in range(40)}


def test_german_captions_say_what_is_where() -> None:
    assert texts(Scene((FROGS, FOX), "left")) == {
        "zweimal frosch links von einmal fuchs", "zweimal frosch links und einmal fuchs rechts",
        "einmal fuchs rechts von zweimal frosch", "einmal fuchs rechts und zweimal frosch links",
    }  # fmt: skip
    assert texts(Scene((FOX, FROGS), "below")) >= {"einmal fuchs unter zweimal frosch"}
    assert texts(Scene((FROGS,))) == {"nur zweimal frosch"}


def test_no_two_scenes_share_a_german_caption() -> None:
    names = [name(thing.character) for thing in things(MOST)]
    assert len(set(names)) == MOST
    assert all(each.replace(" ", "").isalpha() for each in names)
    of_scene = {}
    for scene in scenes(["frog", "fox", "apple"]):
        for text in texts(scene):
            assert of_scene.setdefault(text, scene.text()) == scene.text()


def test_the_built_in_scenes_are_drawn_with_german_captions() -> None:
    splits = {"train": 3, "test": 40, "pairs": 4}
    rows = draw("scenes", objects=20, pixels=32, language="de", splits=splits)
    assert {row.meta["language"] for row in rows} == {"de"}
    assert all("mal " in text for row in rows for text in row.captions)
    assert {len(row.captions) for row in rows if row.split != "train"} == {1}
    tested = of(rows, "test")
    suite = read_suite(GERMAN)
    cases = make_cases(suite, tested, [row.captions for row in tested], 99)
    assert {case.test for case in cases} == set(suite.tests)
    assert all(case.changed != case.caption for case in cases)


def test_records_of_another_language_are_not_tested() -> None:
    def record(number: int, text: str, **meta: object) -> Record:
        return Record(f"k{number}", b"", (text,), number, "test", "s", meta)

    records: Records = [
        record(0, "zweimal frosch links von einmal fuchs", language="de"),
        record(1, "a frog, zweimal links von einmal", language="en"),
        record(2, "einmal hund über zweimal igel"),
    ]
    behaviour = prepare(BehaviourConfig(tests=str(GERMAN)), Task, records)
    assert behaviour is not None
    assert {case.index for case in behaviour.cases} == {0, 2}
