"""What an exported retrieval model of the built-in run can do beyond its metrics.

``python -m benchmarks.abilities products/exports/retrieval``: the share of single objects that it
names among 24, by background, and with ``--font`` those of another emoji font, such as
NotoColorEmoji.ttf. Then, in test scenes of two groups, how often it accepts a number of objects,
by their true number. Then, from the behavior tests of the same run, the share of true captions
that score above their reverse. All in percent.
"""

import argparse
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from albef.builtin import describe, grounds
from albef.builtin.describe import Group, Scene
from albef.builtin.studio import Studio
from albef.runtime import load
from albef.runtime.matching import Matching

PIXELS, EACH, SCENES = 64, 10, 400  # side of an image, images of an object, scenes of two groups
BITMAP = 109  # the only size of Noto's bitmap font
TEMPLATES = ("{}", "a picture of {}")


def foreign(font: Path, character: str, rng: random.Random) -> bytes:
    """Return a PNG of a character in another font, on a light background."""
    drawn = Image.new("RGBA", (3 * BITMAP, 3 * BITMAP), (255, 255, 255, 0))
    face = ImageFont.truetype(font, BITMAP)
    ImageDraw.Draw(drawn).text((BITMAP, BITMAP), character, font=face, embedded_color=True)
    drawn = drawn.crop(drawn.getbbox())
    side = rng.uniform(0.5, 0.8) * PIXELS
    drawn.thumbnail((side, side), Image.Resampling.BICUBIC)
    image = grounds.draw(PIXELS, rng)
    left, top = (rng.randint(0, PIXELS - side) for side in drawn.size)
    image.paste(drawn, (left, top), drawn)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def accepted_counts(model: Matching, studio: Studio) -> Iterator[tuple[str, float]]:
    """Yield how often short captions such as "two frogs" are accepted, by the true number."""
    rng = random.Random(1)
    asked = []
    for scene in rng.sample(studio.pool("test", groups=2), SCENES):
        image = studio.draw(scene, rng).png()
        for group in scene.groups:
            asked += [(group.count, said, image, group.name) for said in range(1, 5)]
    texts = [describe.phrase(Group(name, said), studio.names) for _, said, _, name in asked]
    accepted = model.match([image for _, _, image, _ in asked], texts) >= 0.5
    shares: dict[tuple[int, int], list[bool]] = {}
    for (true, said, _, _), yes in zip(asked, accepted, strict=True):
        shares.setdefault((true, said), []).append(bool(yes))
    for (true, said), answers in sorted(shares.items()):
        numbers = describe.NUMBERS[true], describe.NUMBERS[said]
        yield "{} called {}".format(*numbers), 100 * sum(answers) / len(answers)


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("--font", type=Path)
    parser.add_argument("--objects", type=int, default=24)
    given = parser.parse_args()
    model = load(given.export)
    assert isinstance(model, Matching)
    studio = Studio(given.objects, PIXELS)
    names = list(studio.names)
    labels = [describe.phrase(Group(name, 1), studio.names) for name in names]

    def report(what: str, draw: Callable[[str, random.Random], bytes]) -> None:
        rng = random.Random(1)
        images = [draw(name, rng) for name in names for _ in range(EACH)]
        found = model.zero_shot(images, labels, TEMPLATES).argmax(axis=1)
        right = sum(int(best) == i // EACH for i, best in enumerate(found))
        print(f"{what:24}{100 * right / len(images):6.1f}")

    for kind in grounds.KINDS:

        def on(name: str, rng: random.Random, ground: str = kind) -> bytes:
            return studio.draw(Scene((Group(name, 1),)), rng, ground=ground).png()

        report(kind, on)
    if given.font:
        report(
            given.font.stem,
            lambda name, rng: foreign(given.font, studio.names[name].character, rng),
        )
    for what, share in accepted_counts(model, studio):
        print(f"{what:24}{share:6.1f}")
    results = given.export.parents[1] / "results" / given.export.name / "behaviour.parquet"
    for test in ("left_right", "above_below"):
        cases = pq.read_table(results, filters=[("test", "==", test)]).to_pylist()
        better = sum(case["changed_score"] < case["score"] for case in cases)
        print(f"{test + ' reversed':24}{100 * better / len(cases):6.1f}")


if __name__ == "__main__":
    main()
