"""Kind ``statements``: pictures with a sentence that they entail, contradict or leave open.

Every sentence comes three times, once with each label and over a picture of its own, so that
nothing can be told from the text. What leaves a sentence open is a card that covers one of the two
groups of a scene: anything may lie beneath it. Cards lie in some pictures of every label.
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
"""Views by what they change and whether they have a card."""
LABELS = ("entailment", "neutral", "contradiction")
"""Of the three records of a sentence, in order."""
_ONE_GROUP = 2 / 3  # share of sentences that name one group of a scene only
_WORDINGS = ("{a}", "a picture of {a}")  # of such a sentence
_WEIGHTS = {"object": 2, "count": 1, "relation": 1}  # of what a contradicting scene differs in
_MAX_VARIANTS = 4  # changed scenes of a kind that are looked at


class Config(view.Drawn):
    """Pictures of two groups of things, with statements."""

    objects: Annotated[int, Field(ge=4, le=openmoji.MOST)]
    """How many different things there are."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0, multiple_of=3)]]
    """Number of records by split, three for each statement."""


@dataclass(frozen=True, slots=True)
class View:
    """A scene of two groups as a picture shows it: one of them may lie under a card."""

    scene: Scene
    covered: int | None = None

    def possible(self, names: list[str]) -> Iterator[Scene]:
        """Every scene that would look the same."""
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


def judge(claim: Claim, picture: View, names: list[str]) -> str:
    """The label of a claim over a picture: whether it is true of all, none or some scenes."""
    truths = {describe.true_of(claim, scene) for scene in picture.possible(names)}
    return "neutral" if len(truths) == 2 else "entailment" if True in truths else "contradiction"


@view.records(across=True)
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """The records of all splits, the three of a statement one after the other."""
    studio = Studio(config.objects, config.pixels)
    for split, count in config.splits.items():
        pool = studio.pool(split, groups=2)
        allowed = frozenset(pool)
        for number in range(count // 3):
            rng = random.Random(f"{seed} statements {split} {number}")
            text, views = _statement(studio, pool, allowed, rng)
            for label, (picture, change) in views.items():
                scene, covered = picture.scene, picture.covered
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
    """A sentence about a scene, and for each label a view and what it changes of the scene."""
    while True:
        scene = rng.choice(pool)
        if rng.random() < _ONE_GROUP:
            group = rng.choice(scene.groups)
            text = rng.choice(_WORDINGS).format(a=describe.phrase(group, studio.names))
            claim = Claim((group,))
        else:
            text, claim = studio.caption(scene, rng)
        options = _options(claim, scene, allowed, list(studio.names), rng)
        if all(options[label] for label in LABELS):
            return text, {label: _choose(options[label], rng) for label in LABELS}


def _options(
    claim: Claim, scene: Scene, allowed: frozenset[Scene], names: list[str], rng: random.Random
) -> dict[str, Options]:
    """Views by label: of the scene itself, and contradicting ones of scenes that differ in one
    thing and that the split may show."""
    options: dict[str, Options] = {label: {} for label in LABELS}
    for change in (None, *_WEIGHTS):
        scenes = [scene]
        if change is not None:
            changed_scenes = [s for s in describe.changed(scene, change, names) if s in allowed]
            scenes = rng.sample(changed_scenes, min(_MAX_VARIANTS, len(changed_scenes)))
        for variant in scenes:
            for covered in (None, 0, 1):
                picture = View(variant, covered)
                label = judge(claim, picture, names)
                if change is None or label == "contradiction":
                    options[label].setdefault((change, covered is not None), []).append(picture)
    return options


def _choose(options: Options, rng: random.Random) -> tuple[View, str | None]:
    weights = [_WEIGHTS[change] if change else 1 for change, _ in options]
    ((change, card),) = rng.choices(list(options), weights)
    return rng.choice(options[change, card]), change
