"""Kind ``statements``: pictures with a sentence that they entail, contradict or leave open.

Every sentence comes three times, once with each label and over a picture of its own, so that
nothing can be told from the text. What leaves a sentence open is a card that covers one of the two
groups of a scene: anything may lie beneath it. Cards lie in some pictures of every label.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from albef.builtin import describe, openmoji
from albef.builtin.describe import MOST, Claim, Group, Scene
from albef.builtin.studio import Studio
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
LABELS = ("entailment", "neutral", "contradiction")
"""Of the three records of a sentence, in order."""
_ONE_GROUP = 2 / 3  # share of sentences that name one group of a scene only
_WORDINGS = ("{a}", "a picture of {a}")  # of such a sentence
_WEIGHTS = {"object": 2, "count": 1, "relation": 1}  # of what a contradicting scene differs in
_TRIES = 200  # to find a scene for a statement
_SOME = 4  # changed scenes of a kind that are looked at


class Config(Section):
    """Pictures of two groups of things, with statements."""

    kind: Literal["statements"]
    """This kind."""
    objects: Annotated[int, Field(ge=2, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0)]]
    """Number of records by split, three for each statement."""

    @field_validator("splits")
    @classmethod
    def _in_threes(cls, splits: dict[str, int]) -> dict[str, int]:
        for name, count in splits.items():
            if count % 3:
                raise ValueError(f"{name} must be a multiple of three, got {count}")
        return splits


@dataclass(frozen=True, slots=True)
class View:
    """A scene as a picture shows it.

    Attributes:
        scene: of two groups.
        covered: the group that lies under a card; None where both are seen.
    """

    scene: Scene
    covered: int | None = None

    def possible(self, names: Sequence[str]) -> Iterator[Scene]:
        """Every scene that would look the same."""
        if self.covered is None:
            yield self.scene
            return
        seen = self.scene.groups[1 - self.covered]
        for name in names:
            for count in range(1, MOST - seen.count + 1):
                if name != seen.name:
                    hidden = Group(name, count)
                    groups = (seen, hidden) if self.covered else (hidden, seen)
                    yield Scene(groups, self.scene.relation)


def judge(claim: Claim, view: View, names: Sequence[str]) -> str:
    """The label of a claim over a picture: whether it is true of all, none or some scenes."""
    truths = {describe.true_of(claim, scene) for scene in view.possible(names)}
    return "neutral" if len(truths) == 2 else "entailment" if True in truths else "contradiction"


def records(config: Config, seed: int) -> Iterator[Record]:
    """The records of all splits, the three of a statement one after the other.

    Raises:
        ParamsError: no scene of a split can be stated in all three ways.
    """
    studio = Studio(config.objects, config.pixels)
    names = list(studio.names)
    image_id = 0
    for split, count in config.splits.items():
        pool = studio.pool(split, groups=2)
        known = frozenset(pool)
        for number in range(count // 3):
            rng = random.Random(f"{seed} statements {split} {number}")
            text, views = _statement(studio, pool, known, names, rng)
            for label, (view, change) in views.items():
                image, objects = studio.draw(view.scene, rng, view.covered)
                hidden = view.scene.groups[view.covered].name if view.covered is not None else None
                yield Record(
                    key=f"{split}-{image_id:06d}",
                    image=image,
                    captions=(text,),
                    image_id=image_id,
                    split=split,
                    source="statements",
                    meta={
                        **view.scene.meta(),
                        "objects": objects,
                        "unseen": describe.unseen(view.scene),
                        "label": label,
                        "statement": number,
                        "covered": hidden,
                        "change": change,
                    },
                )
                image_id += 1


def _statement(
    studio: Studio,
    pool: Sequence[Scene],
    known: frozenset[Scene],
    names: Sequence[str],
    rng: random.Random,
) -> tuple[str, dict[str, tuple[View, str | None]]]:
    """A sentence, and for each label a view and what it changes of the scene told."""
    for _ in range(_TRIES if pool else 0):
        scene = rng.choice(pool)
        if rng.random() < _ONE_GROUP:
            group = rng.choice(scene.groups)
            text = rng.choice(_WORDINGS).format(a=describe.phrase(group, studio.names))
            claim = Claim((group,))
        else:
            told = list(describe.captions(scene, studio.names, unmistakable=True))
            text, claim = rng.choice(told)
        found = _views(claim, scene, known, names, rng)
        if all(found[label] for label in LABELS):
            return text, {label: _drawn(found[label], rng) for label in LABELS}
    raise ParamsError(
        "no scene can be entailed, contradicted and left open with so few objects: raise objects"
    )


Options = dict[tuple[str | None, bool], list[View]]
"""Views by what they change and whether they have a card."""


def _views(
    claim: Claim,
    scene: Scene,
    known: frozenset[Scene],
    names: Sequence[str],
    rng: random.Random,
) -> dict[str, Options]:
    """Views by label: of the scene itself, and contradicting ones of scenes that differ in one
    thing and that the split may show."""
    found: dict[str, Options] = {label: {} for label in LABELS}
    for change in (None, *_WEIGHTS):
        scenes = [scene]
        if change is not None:
            others = [s for s in describe.changed(scene, change, list(names)) if s in known]
            scenes = rng.sample(others, min(_SOME, len(others)))
        for other in scenes:
            for covered in (None, 0, 1):
                view = View(other, covered)
                label = judge(claim, view, names)
                if change is None or label == "contradiction":
                    found[label].setdefault((change, covered is not None), []).append(view)
    return found


def _drawn(options: Options, rng: random.Random) -> tuple[View, str | None]:
    kinds = list(options)
    weights = [_WEIGHTS[change] if change else 1 for change, _ in kinds]
    (kind,) = rng.choices(kinds, weights)
    return rng.choice(options[kind]), kind[0]
