"""German captions of scenes.

Counts are in words such as "zweimal", after which a noun needs neither article nor plural.
"""

import random
from collections.abc import Mapping
from functools import cache

from albef.builtin.describe import Relation, Scene
from albef.builtin.openmoji import Thing

COUNTS = ("keinmal", "einmal", "zweimal", "dreimal", "viermal")
"""Counts in words."""
_WHERE: dict[Relation, tuple[str, str, str]] = {
    "left": ("links von", "links", "rechts"),
    "right": ("rechts von", "rechts", "links"),
    "above": ("über", "oben", "unten"),
    "below": ("unter", "unten", "oben"),
}
"""Position of a group relative to another, and the sides that both are on."""


def caption(scene: Scene, names: Mapping[str, Thing], rng: random.Random) -> str:
    """Return a random German caption that is true of ``scene`` and of no scene that shows more."""
    turned, frame = rng.random() < 0.5, rng.random() < 0.5
    side = scene.turned() if scene.relation and turned else scene
    words = [f"{COUNTS[g.count]} {name(names[g.name].character)}" for g in side.groups]
    if side.relation is None:
        return f"nur {words[0]}"
    where, here, there = _WHERE[side.relation]
    return (
        f"{words[0]} {where} {words[1]}" if frame else f"{words[0]} {here} und {words[1]} {there}"
    )


@cache
def name(character: str) -> str:
    """Return the German name of an emoji, as "roter apfel"."""
    from emoji import demojize

    text: str = demojize(character, language="de")
    return text.strip(":").replace("_", " ").replace("-", " ")
