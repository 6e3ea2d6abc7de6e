"""Kind ``pictures``: one thing in a picture, with its name.

It teaches the names: what its evaluated splits show is shown in training too, in other pictures.
"""

import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from albef.builtin import view
from albef.builtin.describe import Group, Scene, phrase
from albef.builtin.studio import Canvas, Studio

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


class Config(view.Drawn):
    """Single pictures with their names."""

    pixels: Annotated[int, Field(ge=16, le=4096)]
    """Side of a picture."""
    splits: view.Splits
    """Number of pictures by split; one of each thing at most where it is evaluated."""
    caption_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training pictures whose caption is wrong or says nothing."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """The pictures of all splits; things take turns, so that each is shown equally often."""
    studio = Studio(config.objects, config.pixels)
    names = list(studio.names)
    for split, count in config.splits.items():
        if split != "train" and count > len(names):
            raise view.too_few(split, count, "captions", len(names))
        for number in range(count):
            rng = random.Random(f"{seed} pictures {split} {number}")
            name = named = names[number % len(names)]
            meta = Scene((Group(name, 1),)).meta()
            (wording,) = rng.sample(_WORDINGS, 1)
            if split == "train" and rng.random() < config.caption_noise:
                meta["noise"] = rng.choice(["wrong", "generic"])
                named = rng.choice([other for other in names if other != name])
            caption = wording.format(a=phrase(Group(named, 1), studio.names))
            if meta.get("noise") == "generic":
                caption = rng.choice(GENERIC)

            size = rng.uniform(*_SIZES) * config.pixels
            angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
            canvas = Canvas(config.pixels, rng)
            sprite = studio.sprite(name, size, angle)
            x, y = (rng.randint(0, max(0, config.pixels - s)) for s in sprite.picture.size)
            canvas.put(sprite, x, y)
            yield view.Row(split, [canvas.png()], (caption,), {**meta, "objects": canvas.objects})
