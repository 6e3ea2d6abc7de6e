"""What a scene is, what a caption claims, and whether the claim is true.

A scene has one or two groups of equal things, each with a count; two groups stand beside or
above each other. Its canonical text decides, by a hash and nothing else, for which splits it may
be drawn, so that no two data sets of any seed or size train and evaluate on the same scene.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from albef.builtin.openmoji import Thing

Relation = Literal["left", "right", "above", "below"]

MOST = 4
"""Pictures in a scene, at most."""
INVERSE: dict[Relation, Relation] = {
    "left": "right", "right": "left", "above": "below", "below": "above"
}  # fmt: skip
HELD_OUT = 0.15
"""Share of the pairs of things that stand together in no training scene."""
# Shares of descriptions by split; those of a held-out pair are for evaluation only.
_BUCKETS = {"train": 0.70, "val": 0.08, "test": 0.11, "pairs": 0.11}
_HELD_OUT_BUCKETS = {"val": 0.25, "test": 0.40, "pairs": 0.35}


@dataclass(frozen=True, slots=True)
class Group:
    """So many equal things, by the name of one of them, as "apple"."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        groups: one group or two, of different things.
        relation: where the first group is seen from the second; None for one group.
    """

    groups: tuple[Group, ...]
    relation: Relation | None = None

    def turned(self) -> "Scene":
        """The same scene of two groups, seen from its other group."""
        assert self.relation is not None
        return Scene(self.groups[::-1], INVERSE[self.relation])

    def canonical(self) -> "Scene":
        """The same scene with the relation "left" or "above"."""
        return self.turned() if self.relation in ("right", "below") else self

    def text(self) -> str:
        """The canonical description, equal for two scenes only if they are the same."""
        scene = self.canonical()
        return f" {scene.relation} ".join(f"{g.count} {g.name}" for g in scene.groups)

    def meta(self) -> dict[str, Any]:
        """The description as JSON values."""
        groups = [{"name": group.name, "count": group.count} for group in self.groups]
        return {"groups": groups, "relation": self.relation}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a caption says: that these groups are there, how they stand, and whether that is all.

    Attributes:
        groups: what is named, with exact counts.
        relation: where the first group is seen from the second; None where nothing is said.
        only: whether nothing else is there.
    """

    groups: tuple[Group, ...]
    relation: Relation | None = None
    only: bool = False


def true_of(claim: Claim, scene: Scene) -> bool:
    """Whether ``claim`` is true of ``scene``."""
    claimed, present = set(claim.groups), set(scene.groups)
    if not claimed <= present or (claim.only and claimed != present):
        return False
    if claim.relation is None:
        return True
    return Scene(claim.groups, claim.relation).canonical() == scene.canonical()


# By relation: {a} stands where the relation says, seen from {b}. Without one it is all there is.
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
    """Every wording that is true of ``scene``, with what it claims.

    Args:
        scene: what is shown.
        names: the things by name.
        unmistakable: leave out what may also be true of a scene that shows more.
    """
    alone = scene.relation is None
    if alone and not unmistakable:
        yield phrase(scene.groups[0], names), Claim(scene.groups)
    for side in (scene,) if alone else (scene, scene.turned()):
        words = dict(zip("ab", (phrase(group, names) for group in side.groups), strict=False))
        for wording in _WORDINGS[side.relation]:
            yield wording.format(**words), Claim(side.groups, side.relation, only=alone)


def phrase(group: Group, names: Mapping[str, Thing]) -> str:
    """A group in words, as "an apple" or "three keys"."""
    thing = names[group.name]
    if group.count > 1:
        return f"{NUMBERS[group.count]} {thing.plural}"
    return f"{'an' if thing.name[0] in 'aeiou' else 'a'} {thing.name}"


def held_out(a: str, b: str) -> bool:
    """Whether the things named ``a`` and ``b`` never stand together in a training scene."""
    return _hashed("pair " + " ".join(sorted((a, b)))) < HELD_OUT


def unseen(scene: Scene) -> bool:
    """Whether ``scene`` combines things that no training scene combines."""
    return len(scene.groups) == 2 and held_out(*(group.name for group in scene.groups))


def split_of(scene: Scene) -> str:
    """The one split that may show ``scene``: train, val, test or pairs.

    A single picture is always for training: the kind ``pictures`` teaches the names with it.
    """
    if len(scene.groups) == 1 and scene.groups[0].count == 1:
        return "train"
    return bucket("scene " + scene.text(), _HELD_OUT_BUCKETS if unseen(scene) else _BUCKETS)


def bucket(text: str, shares: Mapping[str, float]) -> str:
    """The one bucket out of some, with a share each, that a text belongs to by its hash."""
    remaining = _hashed(text)
    for name, width in shares.items():
        remaining -= width
        if remaining < 0:
            return name
    return name


def scenes(names: list[str]) -> Iterator[Scene]:
    """Every scene of the things named, each once and canonical."""
    for name, count in itertools.product(names, range(1, MOST + 1)):
        yield Scene((Group(name, count),))
    for a, b in itertools.permutations(names, 2):
        for x, y in itertools.product(range(1, MOST), repeat=2):
            if x + y <= MOST:
                yield Scene((Group(a, x), Group(b, y)), "left")
                yield Scene((Group(a, x), Group(b, y)), "above")


def changed(scene: Scene, change: str, names: list[str]) -> Iterator[Scene]:
    """Every scene that differs from ``scene`` in exactly one relation, count or object."""
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
    """A number in [0, 1) that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
