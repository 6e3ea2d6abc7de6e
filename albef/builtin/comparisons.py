"""Kind ``comparisons``: two pictures and a sentence that is true of both together, or is not.

Every sentence comes twice, true of one pair of pictures and false of another, so that nothing can
be told from the text; nor from one of the pictures, since what makes it false may be in either.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from albef.builtin import describe, openmoji
from albef.builtin.describe import Scene
from albef.builtin.studio import Studio
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
Form = Literal["first", "second", "order", "both", "one", "neither"]
WORDINGS: dict[Form, tuple[str, str]] = {
    "first": ("{a} in the first picture", "the first picture with {a}"),
    "second": ("{a} in the second picture", "the second picture with {a}"),
    "order": (
        "{a} in the first picture and {b} in the second",
        "the first picture with {a} and the second with {b}",
    ),
    "both": ("{a} in both pictures", "both pictures with {a}"),
    "one": ("{a} in only one picture", "only one picture with {a}"),
    "neither": ("{a} in neither picture", "neither picture with {a}"),
}
"""Sentences by what they say of scene ``a``, and of ``b`` where the order counts."""
WEIGHTS: dict[Form, int] = {
    "first": 3, "second": 3, "order": 3, "both": 1, "one": 1, "neither": 1
}  # fmt: skip
"""How often a form is said. Most are of one picture or of one after the other, as in NLVR2; the
others, which join two findings, are learned last."""
_NEAR = 1 / 3  # share of pictures of another scene that differ from it in one thing alone


class Config(Section):
    """Pairs of pictures of one to four things, with sentences about both."""

    kind: Literal["comparisons"]
    """This kind."""
    objects: Annotated[int, Field(ge=4, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0)]]
    """Number of records by split, two for each sentence."""

    @field_validator("splits")
    @classmethod
    def _even(cls, splits: dict[str, int]) -> dict[str, int]:
        for name, count in splits.items():
            if count % 2:
                raise ValueError(f"{name} must be an even number, got {count}")
        return splits


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a sentence says of two pictures.

    Attributes:
        form: which of them shows ``a``; "order": the first ``a`` and the second ``b``;
            "first" and "second" say nothing of the other one.
        a: a scene, canonical.
        b: another, for "order".
    """

    form: Form
    a: Scene
    b: Scene | None = None

    def true_of(self, first: Scene, second: Scene) -> bool:
        """Whether it is true of two canonical scenes."""
        if self.form == "order":
            return (first, second) == (self.a, self.b)
        has = [self.a == scene for scene in (first, second)]
        if self.form in ("first", "second"):
            return has[self.form == "second"]
        return sum(has) == {"both": 2, "one": 1, "neither": 0}[self.form]


def records(config: Config, seed: int) -> Iterator[Record]:
    """The records of all splits, the true and the false one of a sentence together.

    Raises:
        ParamsError: a split has no two groups of things that can be compared.
    """
    studio = Studio(config.objects, config.pixels)
    image_id = 0
    for split, count in config.splits.items():
        shelf = _Shelf(studio, split)
        if count and len(shelf.pool) < 3:
            raise ParamsError(f"splits.{split} has too few different scenes: raise objects")
        for number in range(count // 2):
            rng = random.Random(f"{seed} comparisons {split} {number}")
            (form,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
            a, b = rng.sample(shelf.pool, 2)
            said = Comparison(form, a, b if form == "order" else None)
            words = {
                name: rng.choice(list(describe.captions(scene, studio.names, unmistakable=True)))[0]
                for name, scene in (("a", a), ("b", b))
            }
            text = rng.choice(WORDINGS[form]).format(**words)
            for label in rng.sample((True, False), 2):
                scenes = shelf.pair(said, label, rng)
                drawn = [studio.draw(scene, rng) for scene in scenes]
                yield Record(
                    key=f"{split}-{image_id:06d}",
                    image=drawn[0][0],
                    captions=(text,),
                    image_id=image_id,
                    split=split,
                    source="comparisons",
                    meta={
                        "label": str(label),
                        "statement": number,
                        "form": form,
                        "pictures": [
                            {**scene.meta(), "objects": objects}
                            for scene, (_, objects) in zip(scenes, drawn, strict=True)
                        ],
                    },
                    more=(drawn[1][0],),
                )
                image_id += 1


class _Shelf:
    """The scenes that a split may show, and which are near to each other."""

    def __init__(self, studio: Studio, split: str) -> None:
        self.pool = studio.pool(split)
        self._known = frozenset(self.pool)
        self._names = list(studio.names)

    def pair(self, said: Comparison, truth: bool, rng: random.Random) -> tuple[Scene, Scene]:
        """Two scenes of which a sentence is true, or is not."""
        while True:
            first, second = (
                scene if has else self._another(scene, rng)
                for scene, has in _plan(said, truth, rng)
            )
            if said.true_of(first, second) == truth:
                return first, second

    def _another(self, scene: Scene, rng: random.Random) -> Scene:
        """Another scene, which may differ in one object, number or relation."""
        if rng.random() < _NEAR:
            change = rng.choice(("object", "count", "relation"))
            near = [
                other
                for other in describe.changed(scene, change, self._names)
                if other in self._known
            ]
            if near:
                return rng.choice(near)
        while True:
            other = rng.choice(self.pool)
            if other != scene:
                return other


def _plan(
    said: Comparison, truth: bool, rng: random.Random
) -> tuple[tuple[Scene, bool], tuple[Scene, bool]]:
    """For each picture a scene and whether it is to be shown."""
    a, b = said.a, said.b
    if b is not None:
        if truth:
            return (a, True), (b, True)
        return rng.choice(
            (((b, True), (a, True)), ((a, False), (b, True)), ((a, True), (b, False)))
        )
    if said.form in ("first", "second"):  # the other picture tells nothing
        own, other = (a, truth), (a, rng.random() < 0.5)
        return (own, other) if said.form == "first" else (other, own)
    counts = {"both": (2, 1), "one": (1, rng.choice((0, 2))), "neither": (0, 1)}
    shown = counts[said.form][not truth]
    first = shown == 2 or (shown == 1 and rng.random() < 0.5)
    return (a, first), (a, shown == 2 or (shown == 1 and not first))
