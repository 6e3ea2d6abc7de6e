"""Backgrounds of drawings, and the colors of what is drawn on them."""

import random
from collections.abc import Callable
from functools import partial

from PIL import Image, ImageChops, ImageDraw

Color = tuple[int, int, int]
HELD_OUT = "striped"
"""Kind of background that no training image has."""
_GAIN = 0.3  # maximum share by which a drawing's color channels become darker


def draw(pixels: int, rng: random.Random, kind: str = "light") -> Image.Image:
    """Return a square background of a kind, one of :data:`KINDS`."""
    return KINDS[kind](pixels, rng)


def trained(rng: random.Random, varied: float) -> str:
    """Return a kind of background for training; it is not light with probability ``varied``."""
    return rng.choice(VARIED) if rng.random() < varied else "light"


def recolored(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return an RGBA drawing whose red, green and blue are each a little darker."""
    gains = [round(255 * (1 - rng.uniform(0, _GAIN))) for _ in range(3)]
    return ImageChops.multiply(image, Image.new("RGBA", image.size, (*gains, 255)))


def _color(rng: random.Random, low: int = 0, high: int = 255) -> Color:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _plain(pixels: int, rng: random.Random, low: int = 0, high: int = 255) -> Image.Image:
    return Image.new("RGB", (pixels, pixels), _color(rng, low, high))


def _graded(pixels: int, rng: random.Random) -> Image.Image:
    """Return a smooth transition between the colors of four corners."""
    return _enlarged([_color(rng) for _ in range(4)], 2, pixels, Image.Resampling.BILINEAR)


def _clouded(pixels: int, rng: random.Random) -> Image.Image:
    """Return soft spots around one color."""
    base, cells = _color(rng, 40, 215), rng.randint(4, 8)
    spots = [_near(base, rng) for _ in range(cells * cells)]
    return _enlarged(spots, cells, pixels, Image.Resampling.BICUBIC)


def _chequered(pixels: int, rng: random.Random) -> Image.Image:
    cells = rng.randint(3, 10)
    squares = [(x + y) % 2 for y in range(cells) for x in range(cells)]
    return _two_colors(squares, cells, pixels, rng)


def _tiled(pixels: int, rng: random.Random) -> Image.Image:
    """Return tiles of up to 3 x 3 cells, at any angle."""
    size, cells = rng.randint(2, 3), rng.randint(6, 15)
    tile = [[rng.randint(0, 1) for _ in range(size)] for _ in range(size)]
    tile[0][:2], tile[1][:2] = [0, 1], [1, rng.randint(0, 1)]  # neither rows nor columns are equal
    squares = [tile[y % size][x % size] for y in range(cells) for x in range(cells)]
    return _turned(squares, cells, pixels, rng)


def _mosaic(pixels: int, rng: random.Random) -> Image.Image:
    """Return squares of many colors."""
    cells = rng.randint(3, 12)
    colors = [_color(rng) for _ in range(cells * cells)]
    return _enlarged(colors, cells, pixels, Image.Resampling.NEAREST)


def _spotted(pixels: int, rng: random.Random) -> Image.Image:
    """Return discs of one color on another."""
    image, color = _plain(pixels, rng), _color(rng)
    pen, size = ImageDraw.Draw(image), rng.uniform(0.02, 0.12) * pixels
    for _ in range(rng.randint(10, 40)):
        pen.circle((rng.uniform(0, pixels), rng.uniform(0, pixels)), size, color)
    return image


def _splintered(pixels: int, rng: random.Random) -> Image.Image:
    """Return triangles of many colors."""
    image = _plain(pixels, rng)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 16)):
        corners = [(rng.uniform(0, pixels), rng.uniform(0, pixels)) for _ in range(3)]
        pen.polygon(corners, _color(rng))
    return image


def _striped(pixels: int, rng: random.Random) -> Image.Image:
    """Return bars of two colors, at any angle."""
    bars = rng.randint(4, 14)
    return _turned([x % 2 for _ in range(bars) for x in range(bars)], bars, pixels, rng)


def _turned(squares: list[int], cells: int, pixels: int, rng: random.Random) -> Image.Image:
    """Return squares of two colors, numbered 0 and 1, at any angle."""
    large = _two_colors(squares, cells, 3 * pixels // 2, rng)
    margin = (large.width - pixels) // 2
    turned = large.rotate(rng.uniform(0, 180), Image.Resampling.BILINEAR)
    return turned.crop((margin, margin, margin + pixels, margin + pixels))


def _two_colors(squares: list[int], cells: int, pixels: int, rng: random.Random) -> Image.Image:
    colors = (_color(rng), _color(rng))
    return _enlarged(
        [colors[square] for square in squares], cells, pixels, Image.Resampling.NEAREST
    )


def _near(base: Color, rng: random.Random) -> Color:
    red, green, blue = (channel + rng.randint(-40, 40) for channel in base)
    return red, green, blue


def _enlarged(colors: list[Color], cells: int, pixels: int, how: Image.Resampling) -> Image.Image:
    small = Image.new("RGB", (cells, cells))
    small.putdata(colors)
    return small.resize((pixels, pixels), how)


KINDS: dict[str, Callable[[int, random.Random], Image.Image]] = {
    "light": partial(_plain, low=200), "dark": partial(_plain, high=70), "colored": _plain,
    "graded": _graded, "clouded": _clouded, "chequered": _chequered, "tiled": _tiled,
    "mosaic": _mosaic, "spotted": _spotted, "splintered": _splintered, "striped": _striped,
}  # fmt: skip
"""Function that draws each kind of background."""
VARIED = tuple(kind for kind in KINDS if kind not in ("light", HELD_OUT))
"""Kinds of background, other than light, that training may have."""
