"""``albef explain``: where in a picture a model finds a text and each of its words.

Grad-CAM of the logit with which ITM says that they belong together (:mod:`albef.models.gradcam`).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from albef.data.image_decoding import decode
from albef.export.graphs import attention_layer, facts_of
from albef.export.modules import Matcher
from albef.models.gradcam import itm_maps
from albef.models.weights import Checkpoint, load_checkpoint
from albef.preprocessing.text import TextTokenizer, clean_caption
from albef.preprocessing.transforms import Evaluate
from albef.report.heatmap import overlay

Heat = NDArray[np.float32]

_SIDE = 240  # of a panel, in pixels
_GAP = 18
_ACROSS = 4  # panels in a row
_LINE, _CAPTION = 30, 58  # heights, in pixels: of the text, and of what stands below a panel
_INK, _SOFT, _PAPER = (27, 33, 48), (105, 113, 126), (255, 255, 255)


class WordHeat(NamedTuple):
    """A word as the model reads it, its heat (n, n), and its share of all words' heat."""

    word: str
    heat: Heat
    share: float


class Explanation(NamedTuple):
    """Where a picture has a text: the heat (n, n) of the whole and of its words."""

    probability: float
    """That picture and text belong together, by ITM."""
    heat: Heat
    words: tuple[WordHeat, ...]


def main(
    image: Path, text: str, model: Path, layer: int | None = None, out: Path | None = None
) -> None:
    """Write the figure, which is named after the picture if ``out`` is None, and print the
    probability and its path.

    Raises:
        CheckpointError: no checkpoint, or one without image-text matching.
        ImageError: the picture cannot be decoded.
        ValueError: an empty text, or a layer that is not there.
    """
    encoded = image.read_bytes()
    picture = decode(encoded, str(image))
    explanation = explain(load_checkpoint(model), encoded, text, layer)
    out = out or Path(f"{image.stem}.explained.png")
    draw_figure(picture, text, explanation).save(out, "PNG")
    print(f"{explanation.probability:.1%} that picture and text belong together")
    print(out)


@torch.no_grad()
def explain(
    checkpoint: Checkpoint, image: bytes, text: str, layer: int | None = None
) -> Explanation:
    """Where a model that matches images and texts finds a text in an encoded picture.

    ``layer`` is of the fusion encoder, from 0; None takes what :func:`attention_layer` says.
    """
    matcher = Matcher(checkpoint)
    facts = facts_of(checkpoint)
    cleaned = clean_caption(text, facts.max_words)
    if not cleaned:
        raise ValueError("the text is empty; say what to look for, as 'the key left of the apple'")
    encoded = checkpoint.tokenizer.encode([cleaned], facts.max_tokens)
    ids, mask = (torch.from_numpy(array) for array in encoded)
    pixels = torch.from_numpy(Evaluate(facts.image_size)(image)[None])
    image_states = matcher.model.encode_image(pixels)
    text_states = matcher.model.encode_text(ids, mask)
    logits = matcher(text_states, mask, image_states)
    layer = attention_layer(checkpoint) if layer is None else layer
    maps = itm_maps(matcher.model, matcher.itm_head, text_states, mask, image_states, layer)
    tokens = maps[0].float().numpy()
    words = [
        (word, tokens[indices].mean(0))
        for word, indices in _words(checkpoint.tokenizer, cleaned, facts.max_tokens)
    ]
    total = sum(float(heat.sum()) for _, heat in words) or 1.0
    return Explanation(
        probability=float(logits.softmax(dim=1)[0, 1]),
        heat=tokens.mean(0),
        words=tuple(WordHeat(word, heat, float(heat.sum()) / total) for word, heat in words),
    )


def _words(tokenizer: TextTokenizer, text: str, max_tokens: int) -> list[tuple[str, list[int]]]:
    """Each word with the places of its tokens, as far as the text was not cut."""
    encoding = tokenizer.tokenizer.encode(text)
    words: dict[int, list[int]] = {}
    for index, word in enumerate(encoding.word_ids[:max_tokens]):
        if word is not None:  # [CLS] is of no word
            words.setdefault(word, []).append(index)
    starts, ends = zip(*encoding.offsets, strict=True)
    return [(text[starts[indices[0]] : ends[indices[-1]]], indices) for indices in words.values()]


def draw_figure(picture: Image.Image, text: str, explanation: Explanation) -> Image.Image:
    """The picture, the whole text's map over it, and a map for each word."""
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BICUBIC)
    # A word with a small part of the heat must not look as hot as the others.
    dimmed = max((float(heat.max()) for _, heat, _ in explanation.words), default=0.0) / 3
    panels = [
        (small, "the picture", f"match {explanation.probability:.1%}"),
        (overlay(small, explanation.heat), "the whole text", ""),
        *(
            (overlay(small, heat, max(float(heat.max()), dimmed)), word, f"{share:.0%} of the heat")
            for word, heat, share in explanation.words
        ),
    ]
    title, name, note = (ImageFont.load_default(size) for size in (22, 17, 13))
    lines = _wrapped(f"“{text}”", title, _ACROSS * (_SIDE + _GAP) - _GAP)
    top = _GAP + _LINE * len(lines) + 8
    rows = -(-len(panels) // _ACROSS)
    size = (_GAP + _ACROSS * (_SIDE + _GAP), top + rows * (height + _CAPTION) + 6)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_GAP, _GAP - 2 + _LINE * number), line, _INK, title)
    for number, (panel, label, below) in enumerate(panels):
        row, column = divmod(number, _ACROSS)
        x = _GAP + column * (_SIDE + _GAP) + (_SIDE - width) // 2
        y = top + row * (height + _CAPTION)
        page.paste(panel, (x, y))
        draw.text((x, y + height + 5), label, _INK, name)
        draw.text((x, y + height + 27), below, _SOFT, note)
    return page


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The lines of a text that is at most ``width`` pixels wide; a longer word is left whole."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
