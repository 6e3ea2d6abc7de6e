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
    for name, count, words in (
        ("apple", 1, "an apple"),
        ("squid", 1, "a squid"),
        ("strawberry", 2, "two strawberries"),
        ("fox", 3, "three foxes"),
        ("octopus", 2, "two octopuses"),
        ("snowman", 2, "two snowmen"),
    ):
        assert phrase(Group(name, count), THINGS) == words
