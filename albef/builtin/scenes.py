"""Kind ``scenes``: one to four pictures in a scene, with true captions of what is where.

Everything is jittered in place, size and angle: on a bare grid the patches of a vision
transformer would line up with the pictures.
"""

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from albef.builtin import describe, openmoji
from albef.builtin.describe import Scene
from albef.builtin.pictures import GENERIC
from albef.builtin.studio import Studio
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
CHANGES = ("relation", "count", "object")
"""What the two scenes of a pair may differ in."""
_ONE_GROUP = 0.1  # share of scenes with a single group of things


class Config(Section):
    """Scenes of one to four pictures."""

    kind: Literal["scenes"]
    """This kind."""
    objects: Annotated[int, Field(ge=2, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test", "pairs"], Annotated[int, Field(ge=0)]]
    """Number of scenes by split; ``pairs`` holds scenes that differ two by two in one thing."""
    captions: Annotated[int, Field(ge=1, le=3)] = 2
    """Number of different captions of a training scene; evaluated scenes have one."""
    caption_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training scenes whose captions are wrong or say nothing."""
    unseen: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of evaluated scenes whose things never stand together in a training scene."""

    @field_validator("splits")
    @classmethod
    def _even(cls, splits: dict[str, int]) -> dict[str, int]:
        if splits.get("pairs", 0) % 2:
            raise ValueError(f"pairs must be an even number, got {splits['pairs']}")
        return splits


def records(config: Config, seed: int) -> Iterator[Record]:
    """The scenes of all splits.

    Raises:
        ParamsError: there are fewer different scenes than a split asks for.
    """
    studio = Studio(config.objects, config.pixels)
    image_id = 0
    for split, count in config.splits.items():
        rng = random.Random(f"{seed} scenes {split}")
        if split == "train":
            plan = _training(studio, count, rng)
        elif split == "pairs":
            plan = _pairs(studio, count, config.unseen, rng)
        else:
            plan = _evaluation(studio, split, count, config.unseen, rng)
        for number, (scene, extra) in enumerate(plan):
            own = random.Random(f"{seed} scenes {split} {number}")
            noise: dict[str, Any] = {}
            if split == "train":
                told, noise = _training_captions(studio, scene, config, own)
            else:  # two captions of a pair are worded alike
                alike = random.Random(f"{seed} captions {split} {extra.get('pair', number)}")
                told = _evaluation_caption(studio, scene, alike)
            image, objects = studio.draw(scene, own)
            yield Record(
                key=f"{split}-{number:06d}",
                image=image,
                captions=told,
                image_id=image_id,
                split=split,
                source="scenes",
                meta={**scene.meta(), "objects": objects, **noise, **extra},
            )
            image_id += 1


Plan = list[tuple[Scene, dict[str, Any]]]


def _training(studio: Studio, count: int, rng: random.Random) -> Plan:
    ones, twos = studio.pool("train", groups=1), studio.pool("train", groups=2)
    if count and not (ones and twos):
        raise _too_few("train", count, len(ones) + len(twos))
    return [(rng.choice(ones if rng.random() < _ONE_GROUP else twos), {}) for _ in range(count)]


def _evaluation(
    studio: Studio, split: str, count: int, share_unseen: float, rng: random.Random
) -> Plan:
    """Different scenes, the asked share of them with combinations that training never shows."""
    strange = round(count * share_unseen)
    ones, twos = studio.pool(split, groups=1), studio.pool(split, groups=2)
    single = min(len(ones), round((count - strange) * _ONE_GROUP))
    chosen: list[Scene] = []
    for pool, wanted in (
        (ones, single),
        ([s for s in twos if not describe.unseen(s)], count - strange - single),
        ([s for s in twos if describe.unseen(s)], strange),
    ):
        if len(pool) < wanted:
            raise _too_few(split, wanted, len(pool))
        chosen += rng.sample(pool, wanted)
    rng.shuffle(chosen)
    return [(scene, {"unseen": describe.unseen(scene)}) for scene in chosen]


def _pairs(studio: Studio, count: int, share_unseen: float, rng: random.Random) -> Plan:
    """Two by two, scenes that differ in one thing; the changes take turns."""
    free = dict.fromkeys(studio.pool("pairs"))  # a dict keeps its order, a set none
    order = list(free)
    rng.shuffle(order)
    strange = round(count // 2 * share_unseen)
    wanted = [number < strange for number in range(count // 2)]
    plan: Plan = []
    for number, is_unseen in enumerate(wanted):
        change = CHANGES[number % len(CHANGES)]
        pair = next(_partners(studio, order, free, change, is_unseen, rng), None)
        if pair is None:
            raise _too_few("pairs", count, 2 * number)
        for scene in pair:
            del free[scene]
            plan.append((scene, {"pair": number, "change": change, "unseen": is_unseen}))
    return plan


def _partners(
    studio: Studio,
    order: list[Scene],
    free: dict[Scene, None],
    change: str,
    is_unseen: bool,
    rng: random.Random,
) -> Iterator[tuple[Scene, Scene]]:
    for scene in order:
        if scene not in free or describe.unseen(scene) != is_unseen:
            continue
        others = [
            other
            for other in describe.changed(scene, change, list(studio.names))
            if other in free and describe.unseen(other) == is_unseen
        ]
        if others:
            yield scene, rng.choice(others)


def _too_few(split: str, wanted: int, found: int) -> ParamsError:
    return ParamsError(
        f"splits.{split} asks for {wanted} different scenes of a kind of which there are {found}: "
        f"lower splits.{split} or raise objects"
    )


def _training_captions(
    studio: Studio, scene: Scene, config: Config, rng: random.Random
) -> tuple[tuple[str, ...], dict[str, Any]]:
    noise: dict[str, Any] = {}
    told = scene
    if rng.random() < config.caption_noise:
        noise = {"noise": rng.choice(["wrong", "generic"])}
        if noise["noise"] == "generic":
            return (rng.choice(GENERIC),), noise
        told = studio.other(scene, rng)
    texts = [text for text, _ in describe.captions(told, studio.names, unmistakable=False)]
    return tuple(rng.sample(texts, min(config.captions, len(texts)))), noise


def _evaluation_caption(studio: Studio, scene: Scene, rng: random.Random) -> tuple[str, ...]:
    texts = [text for text, _ in describe.captions(scene, studio.names, unmistakable=True)]
    return (rng.choice(texts),)
