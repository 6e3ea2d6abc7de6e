"""Grid of captioned images, as ``albef find`` and ``albef explain`` write it."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SIDE = 240
"""Longest side of an image, in pixels."""
_GAP = 18
_COLUMNS = 4
_LINE, _CAPTION = 30, 80  # Heights in pixels: a line of the title, and the text below an image.
_LETTERS, _LABEL, _NOTE = 84, 26, 34  # Characters in a line of the title, of a label, of a note.
_INK, _SOFT, _PAPER = (27, 33, 48), (105, 113, 126), (255, 255, 255)


class Panel(NamedTuple):
    """An image with sides of at most :data:`SIDE`, and the text below it."""

    image: Image.Image
    label: str
    note: str


def fit(image: Image.Image) -> Image.Image:
    """Scale an image to its size in a panel."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def draw_panels(title: str, panels: Sequence[Panel]) -> Image.Image:
    """Draw panels in rows under a title."""
    large, medium, small = (ImageFont.load_default(size) for size in (22, 17, 13))
    lines = textwrap.wrap(title, _LETTERS)
    top = _GAP + _LINE * len(lines) + 8
    row_height = max(panel.image.height for panel in panels) + _CAPTION
    rows = -(-len(panels) // _COLUMNS)
    page = Image.new("RGB", (_GAP + _COLUMNS * (SIDE + _GAP), top + rows * row_height + 6), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_GAP, _GAP - 2 + _LINE * number), line, _INK, large)
    for number, (image, label, note) in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        x, y = _GAP + column * (SIDE + _GAP), top + row * row_height
        page.paste(image, (x + (SIDE - image.width) // 2, y))
        y += image.height + 5
        for line in textwrap.wrap(label, _LABEL, max_lines=2, placeholder=" …"):
            draw.text((x, y), line, _INK, medium)
            y += 20
        draw.text((x, y + 3), note[:_NOTE], _SOFT, small)
    return page
