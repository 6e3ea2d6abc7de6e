"""Scenes, the claims of captions, and whether a claim is true of a scene.

A scene has one or two groups of equal objects, each with a count. Two groups are beside or above
each other. A hash of the scene's canonical text alone decides which splits may show it. Therefore
no two datasets, of any seed or size, train and evaluate on the same scene.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
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


# Wordings by relation of {a} to {b}. Without a relation, {a} is all that the scene shows.
_WORDINGS: dict[Relation | None, tuple[str, str]] = {
    None: ("only {a}", "{a} and nothing else"),
    "left": ("{a} left of {b}", "{a} on the left and {b} on the right"),
    "right": ("{a} right of {b}", "{a} on the right and {b} on the left"),
    "above": ("{a} above {b}", "{a} at the top and {b} at the bottom"),
    "below": ("{a} below {b}", "{a} at the bottom and {b} at the top"),
}
NUMBERS = ("no", "one", "two", "three", "four")
"""Counts in words."""


def captions(
    scene: Scene, names: Mapping[str, Thing], *, unmistakable: bool
) -> Iterator[tuple[str, Claim]]:
    """Yield every wording that is true of ``scene``, with its claim.

    Args:
        scene: scene to describe.
        names: objects by name.
        unmistakable: leave out wordings that may also be true of a scene that shows more.
    """
    alone = scene.relation is None
    if alone and not unmistakable:
        yield phrase(scene.groups[0], names), Claim(scene.groups)
    for side in (scene,) if alone else (scene, scene.turned()):
        words = dict(zip("ab", (phrase(group, names) for group in side.groups), strict=False))
        for wording in _WORDINGS[side.relation]:
            yield wording.format(**words), Claim(side.groups, side.relation, only=alone)


def phrase(group: Group, names: Mapping[str, Thing]) -> str:
    """Return a group in words, as "an apple" or "three keys"."""
    thing = names[group.name]
    if group.count > 1:
        return f"{NUMBERS[group.count]} {thing.plural}"
    return f"{'an' if thing.name[0] in 'aeiou' else 'a'} {thing.name}"


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
    """Yield every scene that differs from ``scene`` in exactly one relation, count or object."""
    if change == "relation":
        if scene.relation is not None:
            for relation in INVERSE:
                if relation != scene.relation:
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
