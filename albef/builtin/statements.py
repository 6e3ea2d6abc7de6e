"""Kind ``statements``: images with a statement that they entail, contradict or leave open.

Every statement appears three times, once with each label and a different image. Therefore the text
alone does not reveal the label. A statement is open if a card covers one of the two groups of a
scene, since anything may be under it. Some images of every label have a card.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from albef.builtin import describe, openmoji, view
from albef.builtin.describe import MOST, Claim, Group, Scene
from albef.builtin.studio import Studio

Options = dict[tuple[str | None, bool], list["View"]]
"""Views by kind of change and by whether they have a card."""
LABELS = ("entailment", "neutral", "contradiction")
"""Labels of the three records of a statement, in order."""
_ONE_GROUP = 2 / 3  # share of statements that name only one group of a scene
_WORDINGS = ("{a}", "a picture of {a}")  # wordings of a statement about one group
# Weights of the kinds of change in a contradicting scene.
_WEIGHTS = {"object": 2, "count": 1, "relation": 1}
_MAX_VARIANTS = 4  # changed scenes considered per kind of change


class Config(view.DrawnConfig):
    """Images of two groups of objects, with statements."""

    objects: Annotated[int, Field(ge=4, le=openmoji.MOST)]
    """Number of different objects in the dataset."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0, multiple_of=3)]]
    """Number of records by split, three per statement."""


@dataclass(frozen=True, slots=True)
class View:
    """A scene of two groups as an image shows it: a card may cover one of them."""

    scene: Scene
    covered: int | None = None

    def possible(self, names: list[str]) -> Iterator[Scene]:
        """Yield every scene that would look the same."""
        if self.covered is None:
            yield self.scene
            return
        visible = self.scene.groups[1 - self.covered]
        for name in names:
            for count in range(1, MOST - visible.count + 1):
                if name != visible.name:
                    hidden = Group(name, count)
                    groups = (visible, hidden) if self.covered else (hidden, visible)
                    yield Scene(groups, self.scene.relation)


def judge(claim: Claim, image: View, names: list[str]) -> str:
    """Return the label of a claim about an image.

    The claim is entailed if it is true of all possible scenes, contradicted if it is true of none,
    else neutral.
    """
    truths = {describe.true_of(claim, scene) for scene in image.possible(names)}
    return "neutral" if len(truths) == 2 else "entailment" if True in truths else "contradiction"


@view.records(across=True)
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the records of all splits, the three records of a statement in sequence."""
    studio = Studio(config.objects, config.pixels)
    for split, count in config.splits.items():
        pool = studio.pool(split, groups=2)
        allowed = frozenset(pool)
        for number in range(count // 3):
            rng = random.Random(f"{seed} statements {split} {number}")
            text, views = _statement(studio, pool, allowed, rng)
            for label, (image, change) in views.items():
                scene, covered = image.scene, image.covered
                canvas = studio.draw(scene, rng, covered)
                meta = {
                    **scene.meta(),
                    "objects": canvas.objects,
                    "unseen": describe.unseen(scene),
                    "label": label,
                    "statement": number,
                    "covered": None if covered is None else scene.groups[covered].name,
                    "change": change,
                }
                yield view.Row(split, [canvas.png()], (text,), meta)


def _statement(
    studio: Studio, pool: list[Scene], allowed: frozenset[Scene], rng: random.Random
) -> tuple[str, dict[str, tuple[View, str | None]]]:
    """Return a statement about a scene and, for each label, a view and its change of the scene."""
    while True:
        scene = rng.choice(pool)
        if rng.random() < _ONE_GROUP:
            group = rng.choice(scene.groups)
            text = rng.choice(_WORDINGS).format(a=describe.phrase(group, studio.names))
            claim = Claim((group,))
        else:
            text, claim = describe.caption(scene, studio.names, rng, describe.SIMPLE)
        options = _options(claim, scene, allowed, list(studio.names), rng)
        if all(options[label] for label in LABELS):
            return text, {label: _choose(options[label], rng) for label in LABELS}


def _options(
    claim: Claim, scene: Scene, allowed: frozenset[Scene], names: list[str], rng: random.Random
) -> dict[str, Options]:
    """Return views by label.

    They are views of the scene itself, and contradicting views of scenes that differ in one respect
    and that the split may show.
    """
    options: dict[str, Options] = {label: {} for label in LABELS}
    for change in (None, *_WEIGHTS):
        scenes = [scene]
        if change is not None:
            changed_scenes = [s for s in describe.changed(scene, change, names) if s in allowed]
            scenes = rng.sample(changed_scenes, min(_MAX_VARIANTS, len(changed_scenes)))
        for variant in scenes:
            for covered in (None, 0, 1):
                image = View(variant, covered)
                label = judge(claim, image, names)
                if change is None or label == "contradiction":
                    options[label].setdefault((change, covered is not None), []).append(image)
    return options


def _choose(options: Options, rng: random.Random) -> tuple[View, str | None]:
    weights = [_WEIGHTS[change] if change else 1 for change, _ in options]
    ((change, card),) = rng.choices(list(options), weights)
    return rng.choice(options[change, card]), change
