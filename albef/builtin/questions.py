"""Kind ``questions``: scenes with questions about existence, counts, objects and relations.

The text of a question must not reveal its answer. Some questions of each type are about an object
that is not shown. The answer is then "no" to questions about existence, and "none" to others.
Counts are asked equally often. Every object and position is equally likely to be the answer.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from albef.builtin import describe, openmoji, view
from albef.builtin.describe import Group, Relation, Scene, phrase
from albef.builtin.openmoji import Thing
from albef.builtin.studio import Studio

MISSING = {"existence": 0.5, "count": 0.2, "object": 0.2, "relation": 0.2}
"""Share of the questions of a type that are about an object that is not shown."""
TYPES = tuple(MISSING)
"""Types of questions; they alternate."""
NONE = "none"
"""Answer about an object that is not shown."""
COUNTS = (1, 2, 3)
"""Counts that are asked for, each equally often."""
_WHERE: dict[Relation | None, str] = {
    "left": "left of", "right": "right of", "above": "above", "below": "below"
}  # fmt: skip


class Config(view.DrawnConfig):
    """Scenes of two groups of objects, with questions and their answers."""

    objects: Annotated[int, Field(ge=3, le=openmoji.MOST)]
    """Number of different objects in the dataset."""
    splits: view.Splits
    """Number of scenes by split. Scenes of an evaluation split differ from each other."""
    questions: Annotated[int, Field(ge=1, le=len(TYPES))] = 4
    """Number of questions per scene, each of another type."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the questions of all splits; questions about the same scene follow each other.

    Raises:
        ParamsError: a split needs more different scenes than there are.
    """
    studio = Studio(config.objects, config.pixels)
    question_ids = itertools.count()
    for split, count in config.splits.items():
        types = itertools.cycle(TYPES)
        rng = random.Random(f"{seed} questions {split}")
        for number, (scene, counted) in enumerate(_plan(studio, split, count, rng)):
            rng_of_scene = random.Random(f"{seed} questions {split} {number}")
            canvas = studio.draw(scene, rng_of_scene)
            image = canvas.png()
            for turn in range(config.questions):
                about = next(types)
                question, answer = _ask(about, scene, counted, studio.names, rng_of_scene)
                meta = {
                    **scene.meta(),
                    "objects": canvas.objects,
                    "unseen": describe.unseen(scene),
                    "type": about,
                    "answers": {answer: 1.0},
                    "question_id": next(question_ids),
                }
                yield view.Row(split, [image], (question,), meta, same_image=turn > 0)


def _plan(
    studio: Studio, split: str, count: int, rng: random.Random
) -> Iterator[tuple[Scene, Group]]:
    """Yield scenes of two groups, each with the group whose count is asked for."""
    scenes = studio.pool(split, groups=2)
    pools = {n: [s for s in scenes if n in (group.count for group in s.groups)] for n in COUNTS}
    used_scenes: set[Scene] = set()
    for number in range(count):
        group_count = COUNTS[number % len(COUNTS)]
        scene = _draw(pools[group_count], used_scenes, rng)
        if scene is None:
            raise view.too_few(split, count, "scenes with equally frequent counts", number)
        if split != "train":
            used_scenes.add(scene)
        yield scene, rng.choice([group for group in scene.groups if group.count == group_count])


def _draw(pool: list[Scene], used_scenes: set[Scene], rng: random.Random) -> Scene | None:
    """Return a scene of ``pool`` that is not yet used, or None."""
    for _ in range(20):
        if pool and (scene := rng.choice(pool)) not in used_scenes:
            return scene
    free = [scene for scene in pool if scene not in used_scenes]
    return rng.choice(free) if free else None


def _ask(
    about: str, scene: Scene, counted: Group, names: dict[str, Thing], rng: random.Random
) -> tuple[str, str]:
    """Return a question of a type about a scene, and its answer."""
    shown = {group.name for group in scene.groups}
    missing = rng.choice([name for name in names if name not in shown])
    is_missing = rng.random() < MISSING[about]
    if about == "count":
        name = missing if is_missing else counted.name
        wording = rng.choice(("how many {a} are there?", "how many {a} does the picture show?"))
        answer = NONE if is_missing else describe.NUMBERS[counted.count]
        return wording.format(a=names[name].plural), answer
    if about == "existence":
        name = missing if is_missing else rng.choice([group.name for group in scene.groups])
        wording = rng.choice(("is there {a}?", "does the picture show {a}?"))
        return wording.format(a=phrase(Group(name, 1), names)), "no" if is_missing else "yes"
    side = rng.choice((scene, scene.turned()))
    first, second = side.groups
    if about == "object":
        seen_from = Group(missing, second.count) if is_missing else second
        question = f"what is {_WHERE[side.relation]} {_the(seen_from, names)}?"
        return question, NONE if is_missing else first.name
    if is_missing and rng.random() < 0.5:
        first = Group(missing, first.count)
    elif is_missing:
        second = Group(missing, second.count)
    verb = "are" if first.count > 1 else "is"
    question = f"where {verb} {_the(first, names)}, seen from {_the(second, names)}?"
    return question, NONE if is_missing else str(side.relation)


def _the(group: Group, names: dict[str, Thing]) -> str:
    """Return a known group in words, as "the key" or "the keys"."""
    thing = names[group.name]
    return f"the {thing.plural if group.count > 1 else thing.name}"
