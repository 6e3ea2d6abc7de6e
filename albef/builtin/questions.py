"""Kind ``questions``: scenes with questions about what is there, how much of it, and where.

The text of a question must not give its answer away: half of the questions whether a thing is
there are about one that is not, counts are asked evenly, and every thing and place is as often
right as any other.
"""

import random
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from albef.builtin import describe, openmoji
from albef.builtin.describe import INVERSE, Group, Relation, Scene, phrase
from albef.builtin.openmoji import Thing
from albef.builtin.studio import Studio
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
TYPES = ("existence", "count", "object", "relation")
"""What a question is about; types take turns."""
COUNTS = (1, 2, 3)
"""Counts that are asked for, each equally often."""
_WHERE: dict[Relation, str] = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "below": "below",
}


class Config(Section):
    """Scenes of two groups of things, with questions and their answers."""

    kind: Literal["questions"]
    """This kind."""
    objects: Annotated[int, Field(ge=3, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0)]]
    """Number of scenes by split; evaluated scenes differ from each other."""
    questions: Annotated[int, Field(ge=1, le=len(TYPES))] = 4
    """Questions about a scene, each of another type."""


def records(config: Config, seed: int) -> Iterator[Record]:
    """The questions of all splits; those about a scene follow each other.

    Raises:
        ParamsError: there are fewer different scenes than a split asks for.
    """
    studio = Studio(config.objects, config.pixels)
    image_id = question_id = 0
    for split, count in config.splits.items():
        rng = random.Random(f"{seed} questions {split}")
        for number, (scene, counted) in enumerate(_plan(studio, split, count, rng)):
            own = random.Random(f"{seed} questions {split} {number}")
            image, objects = studio.draw(scene, own)
            for turn in range(config.questions):
                place = number * config.questions + turn
                kind = TYPES[place % len(TYPES)]
                question, answer = _ask(kind, scene, counted, studio.names, own)
                yield Record(
                    key=f"{split}-{place:06d}",
                    image=image,
                    captions=(question,),
                    image_id=image_id,
                    split=split,
                    source="questions",
                    meta={
                        **scene.meta(),
                        "objects": objects,
                        "unseen": describe.unseen(scene),
                        "type": kind,
                        "answers": {answer: 1.0},
                        "question_id": question_id,
                    },
                )
                question_id += 1
            image_id += 1


def _plan(
    studio: Studio, split: str, count: int, rng: random.Random
) -> Iterator[tuple[Scene, Group]]:
    """Scenes of two groups with the group whose number is asked for; counts take turns."""
    scenes = studio.pool(split, groups=2)
    pools = {n: [s for s in scenes if n in (group.count for group in s.groups)] for n in COUNTS}
    shown: set[Scene] = set()
    for number in range(count):
        wanted = COUNTS[number % len(COUNTS)]
        scene = _draw(pools[wanted], shown, rng)
        if scene is None:
            raise ParamsError(
                f"splits.{split} asks for {count} different scenes, of which there are only "
                f"{number} with evenly many of a thing: lower splits.{split} or raise objects"
            )
        if split != "train":
            shown.add(scene)
        yield scene, rng.choice([group for group in scene.groups if group.count == wanted])


def _draw(pool: list[Scene], shown: set[Scene], rng: random.Random) -> Scene | None:
    """A scene of ``pool`` that is not yet shown, or None."""
    for _ in range(20):
        if pool and (scene := rng.choice(pool)) not in shown:
            return scene
    free = [scene for scene in pool if scene not in shown]
    return rng.choice(free) if free else None


def _ask(
    kind: str, scene: Scene, counted: Group, names: dict[str, Thing], rng: random.Random
) -> tuple[str, str]:
    """A question of a type about a scene, and its answer."""
    if kind == "count":
        plural = names[counted.name].plural
        wording = rng.choice(("how many {a} are there?", "how many {a} does the picture show?"))
        return wording.format(a=plural), describe.NUMBERS[counted.count]
    if kind == "existence":
        there = [group.name for group in scene.groups]
        shown = rng.random() < 0.5
        name = rng.choice(there if shown else [name for name in names if name not in there])
        wording = rng.choice(("is there {a}?", "does the picture show {a}?"))
        return wording.format(a=phrase(Group(name, 1), names)), "yes" if shown else "no"
    assert scene.relation is not None
    told = rng.choice((scene, Scene(scene.groups[::-1], INVERSE[scene.relation])))
    first, second = told.groups
    assert told.relation is not None
    if kind == "object":
        return f"what is {_WHERE[told.relation]} {_the(second, names)}?", first.name
    verb = "are" if first.count > 1 else "is"
    return f"where {verb} {_the(first, names)}, seen from {_the(second, names)}?", told.relation


def _the(group: Group, names: dict[str, Thing]) -> str:
    """A group that is known, as "the key" or "the keys"."""
    thing = names[group.name]
    return f"the {thing.plural if group.count > 1 else thing.name}"
