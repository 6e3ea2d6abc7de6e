"""Kind ``comparisons``: two images and a statement that is true or false of both together.

Every statement appears twice: true of one pair of images and false of another. Therefore the text
alone does not reveal the label. One image alone does not reveal it either, since the part that
makes a statement false may be in either image.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from albef.builtin import describe, openmoji, view
from albef.builtin.describe import Scene
from albef.builtin.studio import Studio
from albef.config import ParamsError

Form = Literal["first", "second", "order", "both", "one", "neither"]
FORMS: dict[Form, tuple[int, str, str]] = {
    "first": (3, "{a} in the first picture", "the first picture with {a}"),
    "second": (3, "{a} in the second picture", "the second picture with {a}"),
    "order": (3, "{a} in the first picture and {b} in the second",
              "the first picture with {a} and the second with {b}"),
    "both": (1, "{a} in both pictures", "both pictures with {a}"),
    "one": (1, "{a} in only one picture", "only one picture with {a}"),
    "neither": (1, "{a} in neither picture", "neither picture with {a}"),
}  # fmt: skip
"""Weight and wordings of each form of statement about scene ``a``, and about ``b`` if the order
counts.

Most statements concern one image, or one image and then the other, as in NLVR2. The other forms
join two findings and are learned last.
"""
_NEAR = 1 / 3  # share of other scenes that differ from a given one in one respect only


class Config(view.DrawnConfig):
    """Pairs of images of one to four objects, with statements about both."""

    objects: Annotated[int, Field(ge=4, le=openmoji.MOST)]
    """Number of different objects in the dataset."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0, multiple_of=2)]]
    """Number of records by split, two per statement."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The meaning of a statement about two images.

    Attributes:
        form: which image shows ``a``. For "order", the first shows ``a`` and the second ``b``.
            "first" and "second" leave the other image open.
        a: a canonical scene.
        b: another scene, for "order".
    """

    form: Form
    a: Scene
    b: Scene | None = None

    def true_of(self, first: Scene, second: Scene) -> bool:
        """Return whether the statement is true of two canonical scenes."""
        if self.form == "order":
            return (first, second) == (self.a, self.b)
        has = [self.a == scene for scene in (first, second)]
        if self.form in ("first", "second"):
            return has[self.form == "second"]
        return sum(has) == {"both": 2, "one": 1, "neither": 0}[self.form]


@view.records(across=True)
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the records of all splits, the true and the false record of a statement together.

    Raises:
        ParamsError: a split has too few different scenes to compare.
    """
    studio = Studio(config.objects, config.pixels)
    for split, count in config.splits.items():
        pool = studio.pool(split)
        if count and len(pool) < 3:
            raise ParamsError(f"splits.{split} has too few different scenes; increase objects")
        allowed = frozenset(pool)
        for number in range(count // 2):
            rng = random.Random(f"{seed} comparisons {split} {number}")
            (form,) = rng.choices(list(FORMS), [weight for weight, *_ in FORMS.values()])
            a, b = rng.sample(pool, 2)
            drawn = (describe.caption(s, studio.names, rng, describe.SIMPLE) for s in (a, b))
            words = dict(zip("ab", (text for text, _ in drawn), strict=True))
            text = rng.choice(FORMS[form][1:]).format(**words)
            comparison = Comparison(form, a, b if form == "order" else None)
            for label in rng.sample((True, False), 2):
                scenes = _pair(comparison, label, studio, pool, allowed, rng)
                drawings = [(scene, studio.draw(scene, rng)) for scene in scenes]
                meta = {
                    "label": str(label),
                    "statement": number,
                    "form": form,
                    "pictures": [{**scene.meta(), "objects": c.objects} for scene, c in drawings],
                }
                yield view.Row(split, [canvas.png() for _, canvas in drawings], (text,), meta)


def _pair(
    comparison: Comparison,
    truth: bool,
    studio: Studio,
    pool: list[Scene],
    allowed: frozenset[Scene],
    rng: random.Random,
) -> tuple[Scene, Scene]:
    """Return two scenes of a pool of which a statement is true, or false."""

    def another(scene: Scene) -> Scene:
        """Return another scene, which may differ in one object, count or relation."""
        if rng.random() < _NEAR:
            change = rng.choice(("object", "count", "relation"))
            changed = describe.changed(scene, change, list(studio.names))
            if similar := [other for other in changed if other in allowed]:
                return rng.choice(similar)
        while True:
            other = rng.choice(pool)
            if other != scene:
                return other

    while True:
        first, second = (
            scene if is_shown else another(scene)
            for scene, is_shown in _plan(comparison, truth, rng)
        )
        if comparison.true_of(first, second) == truth:
            return first, second


def _plan(
    comparison: Comparison, truth: bool, rng: random.Random
) -> tuple[tuple[Scene, bool], tuple[Scene, bool]]:
    """Return, for each image, a scene and whether the image shows it."""
    form, a, b = comparison.form, comparison.a, comparison.b
    if b is not None:
        if truth:
            return (a, True), (b, True)
        return rng.choice(
            (((b, True), (a, True)), ((a, False), (b, True)), ((a, True), (b, False)))
        )
    if form in ("first", "second"):  # the statement leaves the other image open
        spoken_of, other = (a, truth), (a, rng.random() < 0.5)
        return (spoken_of, other) if form == "first" else (other, spoken_of)
    times = {"both": (2, 1), "one": (1, rng.choice((0, 2))), "neither": (0, 1)}[form][not truth]
    first = times == 2 or (times == 1 and rng.random() < 0.5)
    return (a, first), (a, times == 2 or (times == 1 and not first))
