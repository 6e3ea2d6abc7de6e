"""``albef explain``: where in a picture a model finds a text and each of its words.

Grad-CAM of the logit with which ITM says that they belong together (:mod:`albef.models.gradcam`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from albef.data.image_decoding import decode
from albef.export.graphs import facts_of, looked_at
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
_INK, _SOFT, _PAPER = (27, 33, 48), (105, 113, 126), (255, 255, 255)


@dataclass(frozen=True)
class Explanation:
    """Where the text is found.

    Attributes:
        probability: that picture and text belong together, by ITM.
        whole: heat (n, n) of the whole text.
        words: each word as the model reads it, with its heat (n, n) and its share of all words'.
    """

    probability: float
    whole: Heat
    words: tuple[tuple[str, Heat, float], ...]


def main(
    image: Path, text: str, model: Path, layer: int | None = None, out: Path | None = None
) -> None:
    """Write the figure and print the probability and the figure's path.

    Args:
        image: the picture's file.
        text: what to look for.
        model: the folder of a checkpoint.
        layer: as :func:`explain` takes it.
        out: the file of the figure; None names it after the picture.

    Raises:
        CheckpointError: no checkpoint, or one without image-text matching.
        ImageError: the picture cannot be decoded.
        ValueError: an empty text, or a layer that is not there.
    """
    encoded = image.read_bytes()
    picture = decode(encoded, str(image))
    found = explain(load_checkpoint(model), encoded, text, layer)
    out = out or Path(f"{image.stem}.explained.png")
    figure(picture, text, found).save(out, "PNG")
    print(f"{found.probability:.1%} that picture and text belong together")
    print(out)


@torch.no_grad()
def explain(
    checkpoint: Checkpoint, image: bytes, text: str, layer: int | None = None
) -> Explanation:
    """Where a model finds a text in an encoded picture.

    Args:
        checkpoint: of a kind that matches images and texts.
        image: the encoded picture.
        text: what is looked for.
        layer: of the fusion encoder, from 0; None takes what the checkpoint was evaluated with, or
            the one below the middle, as the paper does (the third of six).
    """
    matcher = Matcher(checkpoint)
    facts = facts_of(checkpoint)
    cleaned = clean_caption(text, facts.max_words)
    if not cleaned:
        raise ValueError("the text is empty; say what to look for, as 'the key left of the apple'")
    encoded = checkpoint.tokenizer.encode([cleaned], facts.max_tokens)
    ids, mask = (torch.from_numpy(part) for part in encoded)
    pixels = torch.from_numpy(Evaluate(facts.image_size)(image)[None])
    image_states = matcher.model.encode_image(pixels)
    text_states = matcher.model.encode_text(ids, mask)
    logits = matcher(text_states, mask, image_states)
    chosen = looked_at(checkpoint) if layer is None else layer
    maps = itm_maps(matcher.model, matcher.itm_head, text_states, mask, image_states, chosen)
    tokens = maps[0].float().numpy()
    found = _words(checkpoint.tokenizer, cleaned, facts.max_tokens)
    words = [(word, tokens[places].mean(0)) for word, places in found]
    total = sum(float(heat.sum()) for _, heat in words) or 1.0
    return Explanation(
        probability=float(logits.softmax(dim=1)[0, 1]),
        whole=tokens.mean(0),
        words=tuple((word, heat, float(heat.sum()) / total) for word, heat in words),
    )


def _words(tokenizer: TextTokenizer, text: str, max_tokens: int) -> list[tuple[str, list[int]]]:
    """Each word with the places of its tokens, as far as the text was not cut."""
    encoding = tokenizer.tokenizer.encode(text)
    places: dict[int, list[int]] = {}
    for place, word in enumerate(encoding.word_ids[:max_tokens]):
        if word is not None:  # [CLS] is of no word
            places.setdefault(word, []).append(place)
    offsets = encoding.offsets
    return [(text[offsets[own[0]][0] : offsets[own[-1]][1]], own) for own in places.values()]


def figure(picture: Image.Image, text: str, found: Explanation) -> Image.Image:
    """The picture, the whole text's map over it, and a map for each word."""
    shown = picture.copy()
    scale = _SIDE / max(shown.size)
    shown = shown.resize(
        (max(1, round(shown.width * scale)), max(1, round(shown.height * scale))),
        Image.Resampling.BICUBIC,
    )
    # A word with a small part of the heat must not look as hot as the others.
    dimmed = max((float(heat.max()) for _, heat, _ in found.words), default=0.0) / 3
    panels = [
        (shown, "the picture", f"match {found.probability:.1%}"),
        (overlay(shown, found.whole), "the whole text", ""),
        *(
            (overlay(shown, heat, max(float(heat.max()), dimmed)), word, f"{share:.0%} of the heat")
            for word, heat, share in found.words
        ),
    ]
    title, name, note = (ImageFont.load_default(size) for size in (22, 17, 13))
    lines = _wrapped(f"“{text}”", title, _ACROSS * (_SIDE + _GAP) - _GAP)
    head = _GAP + 30 * len(lines) + 8
    step = shown.height + 58
    rows = -(-len(panels) // _ACROSS)
    across = min(_ACROSS, len(panels))
    size = (_GAP + _ACROSS * (_SIDE + _GAP), head + rows * step + 6)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_GAP, _GAP - 2 + 30 * number), line, _INK, title)
    for number, (panel, label, below) in enumerate(panels):
        row, column = divmod(number, across)
        x = _GAP + column * (_SIDE + _GAP) + (_SIDE - panel.width) // 2
        y = head + row * step
        page.paste(panel, (x, y))
        draw.text((x, y + panel.height + 5), label, _INK, name)
        draw.text((x, y + panel.height + 27), below, _SOFT, note)
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
