"""Kind ``pictures``: one object in an image, with its name.

It teaches the names. Evaluation splits show the same objects as training, but in other images.
"""

import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from albef.builtin import grounds, view
from albef.builtin.describe import Group, Scene, short_captions
from albef.builtin.studio import Canvas, Studio
from albef.config import Share

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
"""Captions without content, as are common on the web.

From them, a vocabulary learns words that true captions lack and that later tasks use.
"""
_SIZES = (0.45, 0.85)
_ANGLE = 25.0


class Config(view.DrawnConfig):
    """Single-object images with their names."""

    pixels: Annotated[int, Field(ge=16, le=4096)]
    """Side of an image in pixels."""
    splits: view.Splits
    """Number of images by split. An evaluation split has at most one image per object."""
    varied: Share = 0.0
    """Share of training images with other backgrounds, colors and outlines."""
    caption_noise: Share = 0.0
    """Share of training images whose caption is wrong or has no content."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the images of all splits; objects alternate, so each appears equally often."""
    studio = Studio(config.objects, config.pixels)
    names = list(studio.names)
    for split, count in config.splits.items():
        if split != "train" and count > len(names):
            raise view.too_few(split, count, "captions", len(names))
        for number in range(count):
            rng = random.Random(f"{seed} pictures {split} {number}")
            name = named = names[number % len(names)]
            meta = Scene((Group(name, 1),)).meta()
            if split == "train" and rng.random() < config.caption_noise:
                meta["noise"] = rng.choice(["wrong", "generic"])
                named = rng.choice([other for other in names if other != name])
            captions = tuple(short_captions(Group(named, 1), studio.names))
            if meta.get("noise") == "generic":
                captions = (rng.choice(GENERIC),)

            size = rng.uniform(*_SIZES) * config.pixels
            angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
            ground = grounds.trained(rng, config.varied) if split == "train" else "light"
            canvas = Canvas(config.pixels, rng, ground)
            sprite = studio.sprite(name, size, angle, rng if ground in grounds.VARIED else None)
            x, y = (rng.randint(0, max(0, config.pixels - s)) for s in sprite.image.size)
            canvas.put(sprite, x, y)
            yield view.Row(split, [canvas.png()], captions, {**meta, "objects": canvas.objects})
