"""Kind ``pictures``: one thing in a picture, with its name.

It teaches the names: what its evaluated splits show is shown in training too, in other pictures.
"""

import random
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from albef.builtin import openmoji
from albef.builtin.describe import Group, Scene, phrase
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
GENERIC = (
    "a picture",
    "an image",
    "some icons",
    "a drawing",
    "the first picture of many",
    "the second picture of the two",
    "both pictures in one",
    "neither the first nor the second",
    "only one with free delivery, no more",
    "how many are there?",
    "what is in this picture?",
    "where are these pictures from?",
    "does this show what it is?",
    "yes, it is there to be seen",
)
"""Captions that say nothing, as many on the web do. From them a vocabulary learns words of the
language that true captions lack and later tasks ask with."""
_WORDINGS = ("{a}", "a picture of {a}")
_SIZES = (0.45, 0.85)
_ANGLE = 25.0


class Config(Section):
    """Single pictures with their names."""

    kind: Literal["pictures"]
    """This kind."""
    objects: Annotated[int, Field(ge=2, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=16, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0)]]
    """Number of pictures by split; one of each thing at most where it is evaluated."""
    caption_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training pictures whose caption is wrong or says nothing."""


def records(config: Config, seed: int) -> Iterator[Record]:
    """The pictures of all splits; things take turns, so that each is shown equally often."""
    things = openmoji.things(config.objects)
    names = {thing.name: thing for thing in things}
    artist = openmoji.Artist(config.pixels)
    image_id = 0
    for split, count in config.splits.items():
        if split != "train" and count > len(things):
            raise ParamsError(
                f"splits.{split} is {count}, but {len(things)} objects give only {len(things)} "
                "pictures that are told apart by their captions: lower it or raise objects"
            )
        for number in range(count):
            rng = random.Random(f"{seed} pictures {split} {number}")
            thing = things[number % len(things)]
            scene = Scene((Group(thing.name, 1),))
            meta = scene.meta()
            wordings = rng.sample(_WORDINGS, 1)
            told = thing.name
            if split == "train" and rng.random() < config.caption_noise:
                meta["noise"] = rng.choice(["wrong", "generic"])
                told = rng.choice([name for name in names if name != thing.name])
            captions = tuple(w.format(a=phrase(Group(told, 1), names)) for w in wordings)
            if meta.get("noise") == "generic":
                captions = (rng.choice(GENERIC),)

            size = rng.uniform(*_SIZES) * config.pixels
            angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
            canvas = openmoji.background(rng, config.pixels)
            sprite = artist.sprite(thing, size, angle)
            x = rng.randint(0, max(0, config.pixels - sprite.width))
            y = rng.randint(0, max(0, config.pixels - sprite.height))
            canvas.paste(sprite, (x, y), sprite)
            meta["objects"] = [
                {
                    "name": thing.name,
                    "box": [x, y, sprite.width, sprite.height],
                    "angle": angle,
                    "size": round(size, 1),
                }
            ]
            yield Record(
                key=f"{split}-{number:06d}",
                image=openmoji.png(canvas),
                captions=captions,
                image_id=image_id,
                split=split,
                source="pictures",
                meta=meta,
            )
            image_id += 1
