"""Kind ``scenes``: one to four drawings in a scene, with true captions of their arrangement.

Position, size and angle of everything are jittered. On a plain grid, the patches of a vision
transformer would line up with the drawings.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from albef.builtin import describe, german, grounds, openmoji, view
from albef.builtin.describe import Group, Scene, unseen
from albef.builtin.openmoji import Thing
from albef.builtin.pictures import GENERIC
from albef.builtin.studio import NOVEL, Studio
from albef.config import Share, opt_in

PAIRED, SINGLE = ("pairs", "wordings"), ("things", "grounds", "novel")
"""Splits of scenes in pairs, and of single objects."""
Split = Literal["train", "val", "test", "pairs", "wordings", "things", "grounds", "novel"]
CHANGES = ("reversed", "axis", "count", "object")
"""Kinds of change between the two scenes of a pair."""
_ONE_GROUP = 0.1  # share of scenes with a single group of objects
_NOUN = "scenes of a kind"


class Config(view.DrawnConfig):
    """Scenes of one to four drawings."""

    splits: dict[Split, view.Count]
    """Number of scenes by split. ``pairs`` has an even number of scenes; every two differ in one
    respect. ``wordings`` is like it, with captions of other forms than training's. ``things`` has
    single objects, each equally often; ``thing`` in their meta names them. ``grounds`` is like it,
    on a kind of background that training does not have. ``novel`` has single objects that are in no
    other split."""
    captions: Annotated[int, Field(ge=1, le=32)] = 16
    """Number of captions drawn per training scene that describe all of it; equal ones count once.
    Evaluation scenes have one caption."""
    varied: Share = 0.0
    """Share of training scenes with other backgrounds, colors and outlines."""
    itm_captions: bool = False
    """If true, training scenes also have captions that only ITM reads: their content in many
    words, and that of a single group."""
    caption_noise: Share = 0.0
    """Share of training scenes whose captions are wrong or have no content."""
    language: Literal["en", "de"] = opt_in("en")
    """Language of the captions; it is also in the meta of records in German."""
    unseen: Share = 0.2
    """Share of evaluation scenes whose objects appear together in no training scene."""

    @field_validator("splits")
    @classmethod
    def _even(cls, splits: dict[str, int]) -> dict[str, int]:
        for split in PAIRED:
            if splits.get(split, 0) % 2:
                raise ValueError(f"{split} must be an even number, got {splits[split]}")
        return splits

    @model_validator(mode="after")
    def _in_german(self) -> Self:
        if self.language == "de" and (self.caption_noise or self.itm_captions):
            raise ValueError("language: de has no caption_noise and no itm_captions; remove them")
        if self.language == "de" and self.splits.get("wordings"):
            raise ValueError("language: de has no split wordings; remove it")
        return self

    @model_validator(mode="after")
    def _novel(self) -> Self:
        if self.splits.get("novel") and self.objects + NOVEL > openmoji.MOST:
            raise ValueError(
                f"splits.novel needs {NOVEL} further objects; lower objects to "
                f"{openmoji.MOST - NOVEL}"
            )
        return self


Plan = list[tuple[Scene, dict[str, Any]]]
"""Scenes, each with the values to add to its meta."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the scenes of all splits.

    Raises:
        ParamsError: a split needs more different scenes than there are.
    """
    studio = Studio(config.objects, config.pixels)
    for split, count in config.splits.items():
        rng = random.Random(f"{seed} scenes {split}")
        if split == "train":
            plan = _training(studio, count, rng)
        elif split in SINGLE:
            plan = _things(studio.novel if split == "novel" else studio.names, count)
        elif split in PAIRED:  # the same scenes in each
            rng = random.Random(f"{seed} scenes pairs")
            plan = _pairs(studio, "pairs", count, config.unseen, rng)
        else:
            plan = _evaluation(studio, split, count, config.unseen, rng)
        for number, (scene, extra) in enumerate(plan):
            rng = random.Random(f"{seed} scenes {split} {number}")
            # The two captions of a pair have the same wording.
            alike = random.Random(f"{seed} captions {split} {extra.get('pair', number)}")
            names = studio.names | studio.novel
            noise: dict[str, Any] = {}
            if config.language == "de":
                drawn = config.captions if split == "train" else 1
                texts = (german.caption(scene, names, alike) for _ in range(drawn))
                captions, noise = tuple(dict.fromkeys(texts)), {"language": "de"}
            elif split == "train":
                captions, noise = _training_captions(studio, scene, config, rng)
            else:
                of_split = describe.UNSEEN if split == "wordings" else describe.SIMPLE
                captions = (describe.caption(scene, names, alike, of_split)[0],)
            ground = grounds.HELD_OUT if split == "grounds" else "light"
            if split == "train":
                ground = grounds.trained(rng, config.varied)
            canvas = studio.draw(scene, rng, ground=ground)
            meta = {**scene.meta(), "objects": canvas.objects, **noise, **extra}
            yield view.Row(split, [canvas.png()], captions, meta)


def _training(studio: Studio, count: int, rng: random.Random) -> Plan:
    singles, pairs = studio.pool("train", groups=1), studio.pool("train", groups=2)
    if count and not (singles and pairs):
        raise view.too_few("train", count, _NOUN, len(singles) + len(pairs))
    return [(rng.choice(singles if rng.random() < _ONE_GROUP else pairs), {}) for _ in range(count)]


def _evaluation(
    studio: Studio, split: str, count: int, share_unseen: float, rng: random.Random
) -> Plan:
    """Return different scenes for an evaluation split."""
    unseen_count = round(count * share_unseen)
    singles, pairs = studio.pool(split, groups=1), studio.pool(split, groups=2)
    single_count = min(len(singles), round((count - unseen_count) * _ONE_GROUP))
    pools = (
        (singles, single_count),
        ([scene for scene in pairs if not unseen(scene)], count - unseen_count - single_count),
        ([scene for scene in pairs if unseen(scene)], unseen_count),
    )
    chosen = view.sample_each(pools, split, _NOUN, rng)
    return [(scene, {"unseen": unseen(scene)}) for scene in chosen]


def _things(things: Mapping[str, Thing], count: int) -> Plan:
    """Return scenes of single objects, which alternate."""
    names = list(things)
    scenes = [Scene((Group(names[number % len(names)], 1),)) for number in range(count)]
    return [(scene, {"thing": describe.phrase(scene.groups[0], things)}) for scene in scenes]


def _pairs(studio: Studio, split: str, count: int, share_unseen: float, rng: random.Random) -> Plan:
    """Return scenes in pairs that differ in one respect; the kinds of change alternate."""
    free = dict.fromkeys(studio.pool(split))  # a dict keeps its order, a set does not
    order = list(free)
    rng.shuffle(order)
    strange = round(count // 2 * share_unseen)
    plan: Plan = []
    for number in range(count // 2):
        change, is_unseen = CHANGES[number % len(CHANGES)], number < strange
        candidates = (s for s in order if s in free and unseen(s) == is_unseen)
        for scene in candidates:
            others = [
                other
                for other in describe.changed(scene, change, list(studio.names))
                if other in free and unseen(other) == is_unseen
            ]
            if others:
                break
        else:
            raise view.too_few(split, count, _NOUN, 2 * number)
        for one in (scene, rng.choice(others)):
            del free[one]
            plan.append((one, {"pair": number, "change": change, "unseen": is_unseen}))
    return plan


def _training_captions(
    studio: Studio, scene: Scene, config: Config, rng: random.Random
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the captions of a training scene, and what to add to its meta."""
    noise: dict[str, Any] = {}
    if rng.random() < config.caption_noise:
        noise = {"noise": rng.choice(["wrong", "generic"])}
        if noise["noise"] == "generic":
            return (rng.choice(GENERIC),), noise
        scene = studio.other(scene, rng)
    captions = dict.fromkeys(
        describe.caption(scene, studio.names, rng, describe.SIMPLE)[0]
        for _ in range(config.captions)
    )
    if config.itm_captions:
        noise["itm_captions"] = list(dict.fromkeys(describe.itm_captions(scene, studio.names, rng)))
    return tuple(captions), noise
