"""Scenes, the claims of captions, and whether a claim is true of a scene.

A scene has one or two groups of equal objects, each with a count. Two groups are beside or above
each other. A hash of the scene's canonical text alone decides which splits may show it. Therefore
no two datasets, of any seed or size, train and evaluate on the same scene.
"""

import functools
import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from albef.builtin.openmoji import Thing

Relation = Literal["left", "right", "above", "below"]

MOST = 4
"""Maximum number of drawings in a scene."""
INVERSE: dict[Relation, Relation] = {
    "left": "right", "right": "left", "above": "below", "below": "above"
}  # fmt: skip
HELD_OUT = 0.15
"""Share of the pairs of objects that appear together in no training scene."""
# Shares of scenes by split. Scenes with a held-out pair are used for evaluation only.
_BUCKETS = {"train": 0.70, "val": 0.08, "test": 0.11, "pairs": 0.11}
_HELD_OUT_BUCKETS = {"val": 0.25, "test": 0.40, "pairs": 0.35}


@dataclass(frozen=True, slots=True)
class Group:
    """A number of equal objects, with the singular name of one, as "apple"."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of an image.

    Attributes:
        groups: one group, or two groups of different objects.
        relation: position of the first group relative to the second; None for one group.
    """

    groups: tuple[Group, ...]
    relation: Relation | None = None

    def turned(self) -> "Scene":
        """Return the same scene of two groups, described from its other group."""
        assert self.relation is not None
        return Scene(self.groups[::-1], INVERSE[self.relation])

    def canonical(self) -> "Scene":
        """Return the same scene with the relation "left" or "above"."""
        return self.turned() if self.relation in ("right", "below") else self

    def text(self) -> str:
        """Return the canonical description, equal for two scenes only if they are the same."""
        scene = self.canonical()
        return f" {scene.relation} ".join(f"{g.count} {g.name}" for g in scene.groups)

    def meta(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        groups = [{"name": group.name, "count": group.count} for group in self.groups]
        return {"groups": groups, "relation": self.relation}


@dataclass(frozen=True, slots=True)
class Claim:
    """The meaning of a caption: the groups it names, their relation, and whether that is all.

    Attributes:
        groups: named groups, with exact counts.
        relation: position of the first group relative to the second; None if the caption names
            none.
        only: whether the caption excludes anything else.
    """

    groups: tuple[Group, ...]
    relation: Relation | None = None
    only: bool = False


def true_of(claim: Claim, scene: Scene) -> bool:
    """Return whether ``claim`` is true of ``scene``."""
    claimed, present = set(claim.groups), set(scene.groups)
    if not claimed <= present or (claim.only and claimed != present):
        return False
    if claim.relation is None:
        return True
    return Scene(claim.groups, claim.relation).canonical() == scene.canonical()


NUMBERS = ("no", "one", "two", "three", "four")
"""Counts in words."""
_WHERE: dict[Relation, tuple[str, ...]] = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_SIDES: dict[Relation, tuple[str, str]] = {
    "left": ("on the left", "on the right"), "right": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"), "below": ("at the bottom", "at the top"),
}  # fmt: skip
# As often as "left" and "right", "above" and "below" must be in captions to be learned as well.
_SIMPLE_SIDES = _SIDES | {"above": ("above", "below"), "below": ("below", "above")}


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of captions.

    Attributes:
        frames: frames of captions, by number of groups. ``{where}`` is the position of ``{a}``
            relative to ``{b}``; ``{side}`` and ``{other}`` are the sides with ``{a}`` and ``{b}``;
            ``{it}`` is the pronoun of ``{b}``.
        is_varied: true if there are several words for each position and each count.
        is_even: true if all frames and words are equally frequent, not mostly the first ones.
    """

    frames: Mapping[int, Sequence[str]]
    is_varied: bool = True
    is_even: bool = False


FREE = Wording(
    {
        1: ("only {a}", "{a} and nothing else", "nothing but {a}", "{a} alone"),
        2: (
            "{a} {where} {b}",
            "{a} {side} and {b} {other}",
            "there {is} {a} {where} {b}",
            "{where} {b} {is} {a}",
            "{b} and {a} {where} {it}",
            "{a} {is} {where} {b}",
            "{side} {a}, {other} {b}",
            "{where} {b} there {is} {a}",
            "a picture of {a} {where} {b}",
            "we see {a} {where} {b}",
            "this shows {a} {where} {b}",
            "here {is} {a} {where} {b}",
            "you can find {a} {where} {b}",
            "{where} {b} is where {a} {is}",
            "{b} {other}, {a} {side}",
            "{b} {other} and {a} {side}",
            "{side} we find {a}, {other} {b}",
            "look {where} {b} for {a}",
        ),
    },
    is_even=True,
)
"""Many ways to say it, for captions that only ITM reads."""
SIMPLE = Wording({groups: frames[:2] for groups, frames in FREE.frames.items()}, is_varied=False)
"""The first two frames of FREE. Their captions can be part of a sentence."""
UNSEEN = Wording(
    {
        1: ("just {a}",),
        2: (
            "{where} {b} you see {a}",
            "{b} with {a} {side}",
            "{side} there {is} {a} and {other} {b}",
            "we can find {a} {where} {b} in this picture",
        ),
    }
)
"""Frames that no training caption has."""
_SHORT = ("{a}", "a picture of {a}", "there {is} {a}")
_REWORDED = 4  # captions with the wording FREE
_DIGITS, _ONE = 0.1, 0.1  # shares of counts that are written as digits, and of "one" for "a"


def caption(
    scene: Scene, names: Mapping[str, Thing], rng: random.Random, wording: Wording
) -> tuple[str, Claim]:
    """Return a random caption that is true of ``scene`` and of no scene that shows more.

    Equal generators give two scenes the same frame and style.
    """
    frame, which, turned = rng.random(), rng.random(), rng.random()
    if not wording.is_even:  # squares make the first frames and words the most frequent
        frame, which = frame**2, which**2
    side = scene.turned() if scene.relation and turned < 0.5 else scene
    words = [phrase(group, names, rng if wording.is_varied else None) for group in side.groups]
    parts = dict(zip("ab", words, strict=False)) | {"is": _is(side.groups[0])}
    if side.relation:
        parts["it"] = "them" if side.groups[1].count > 1 else "it"
        parts["where"] = _choice(_WHERE[side.relation], which if wording.is_varied else 0.0)
        sides = _SIDES if wording.is_varied else _SIMPLE_SIDES
        parts["side"], parts["other"] = sides[side.relation]
    text = _choice(wording.frames[len(side.groups)], frame).format(**parts)
    return text, Claim(side.groups, side.relation, only=side.relation is None)


def short_captions(group: Group, names: Mapping[str, Thing]) -> Iterator[str]:
    """Yield captions of a single group, which may be true of many scenes."""
    for frame in _SHORT:
        yield frame.format(a=phrase(group, names), **{"is": _is(group)})


def itm_captions(scene: Scene, names: Mapping[str, Thing], rng: random.Random) -> Iterator[str]:
    """Yield captions of a single group of ``scene``, and of all of it in many words."""
    for group in scene.groups:
        yield from short_captions(group, names)
    for _ in range(_REWORDED):
        yield caption(scene, names, rng, FREE)[0]


def phrase(group: Group, names: Mapping[str, Thing], rng: random.Random | None = None) -> str:
    """Return a group in words, as "an apple" or "three keys"; with ``rng``, also "3 keys"."""
    thing, style = names[group.name], rng.random() if rng else 1.0
    noun = thing.plural if group.count > 1 else thing.name
    if style < _DIGITS:
        return f"{group.count} {noun}"
    if group.count > 1 or style < _DIGITS + _ONE:
        return f"{NUMBERS[group.count]} {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _is(group: Group) -> str:
    return "are" if group.count > 1 else "is"


def _choice(options: Sequence[str], share: float) -> str:
    return options[int(share * len(options))]


@functools.cache
def held_out(a: str, b: str) -> bool:
    """Return whether the objects named ``a`` and ``b`` appear together in no training scene."""
    return _hashed("pair " + " ".join(sorted((a, b)))) < HELD_OUT


def unseen(scene: Scene) -> bool:
    """Return whether ``scene`` combines objects that no training scene combines."""
    return len(scene.groups) == 2 and held_out(*(group.name for group in scene.groups))


def split_of(scene: Scene) -> str:
    """Return the only split that may show ``scene``: train, val, test or pairs.

    A scene with a single object is always for training, since :mod:`albef.builtin.pictures` teaches
    the names with it.
    """
    if len(scene.groups) == 1 and scene.groups[0].count == 1:
        return "train"
    return bucket("scene " + scene.text(), _HELD_OUT_BUCKETS if unseen(scene) else _BUCKETS)


def bucket(text: str, shares: Mapping[str, float]) -> str:
    """Return the bucket that a text belongs to by its hash, given the share of each bucket."""
    remaining = _hashed(text)
    for name, width in shares.items():
        remaining -= width
        if remaining < 0:
            return name
    return name


def scenes(names: list[str]) -> Iterator[Scene]:
    """Yield every scene of the named objects once, in canonical form."""
    for name, count in itertools.product(names, range(1, MOST + 1)):
        yield Scene((Group(name, count),))
    for a, b in itertools.permutations(names, 2):
        for x, y in itertools.product(range(1, MOST), repeat=2):
            if x + y <= MOST:
                yield Scene((Group(a, x), Group(b, y)), "left")
                yield Scene((Group(a, x), Group(b, y)), "above")


def changed(scene: Scene, change: str, names: list[str]) -> Iterator[Scene]:
    """Yield every scene that differs from ``scene`` in exactly one relation, count or object.

    The relation may be "reversed" or of another "axis"; the change "relation" is either.
    """
    if change in ("relation", "reversed", "axis"):
        if scene.relation is None:
            return
        for relation in INVERSE:
            kind = "reversed" if relation == INVERSE[scene.relation] else "axis"
            if relation != scene.relation and change in ("relation", kind):
                yield Scene(scene.groups, relation).canonical()
        return
    total = sum(group.count for group in scene.groups)
    used_names = {group.name for group in scene.groups}
    for index, group in enumerate(scene.groups):
        if change == "count":
            counts = range(1, MOST - (total - group.count) + 1)
            replacements = [replace(group, count=n) for n in counts if n != group.count]
        else:
            replacements = [replace(group, name=name) for name in names if name not in used_names]
        for replacement in replacements:
            groups = (*scene.groups[:index], replacement, *scene.groups[index + 1 :])
            yield Scene(groups, scene.relation)


def _hashed(text: str) -> float:
    """Return a number in [0, 1) that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
