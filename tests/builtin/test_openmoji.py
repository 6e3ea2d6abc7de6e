"""The artwork: things that can be named apart and drawn."""

from albef.builtin import openmoji
from albef.builtin.describe import Group, phrase

THINGS = {thing.name: thing for thing in openmoji.things(openmoji.MOST)}


def test_things_have_different_short_names() -> None:
    assert len(THINGS) == openmoji.MOST
    assert not any(" " in name for name in THINGS)
    assert set(THINGS).isdisjoint(thing.plural for thing in THINGS.values())
    assert [thing.name for thing in openmoji.things(3)] == ["squid", "apple", "key"]


def test_every_thing_can_be_drawn() -> None:
    artist = openmoji.Artist(32)
    sprites = [artist.sprite(thing, 24, 0) for thing in THINGS.values()]
    assert {max(sprite.size) for sprite in sprites} <= {23, 24, 25}
    assert len({sprite.tobytes() for sprite in sprites}) == openmoji.MOST


def test_phrases() -> None:
    singular, plural = "an apple, a squid", "strawberries, foxes, octopuses, snowmen"
    assert ", ".join(phrase(Group(n, 1), THINGS) for n in ("apple", "squid")) == singular
    names = ("strawberry", "fox", "octopus", "snowman")
    assert ", ".join(phrase(Group(n, 2), THINGS)[4:] for n in names) == plural
