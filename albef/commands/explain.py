"""``albef explain``: find a text and each of its words in an image.

The maps are Grad-CAM of the ITM logit for "match" (:mod:`albef.models.gradcam`).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from albef.commands.panels import Panel, draw_panels, fit
from albef.data.image_decoding import decode
from albef.export.graphs import attention_layer, facts_of
from albef.export.modules import Matcher
from albef.models.gradcam import itm_maps
from albef.models.weights import Checkpoint, load_checkpoint
from albef.preprocessing.text import TextTokenizer
from albef.preprocessing.transforms import Evaluate
from albef.report.heatmap import overlay

Heat = NDArray[np.float32]


class WordHeat(NamedTuple):
    """A word as the model reads it, its heat (n, n), and its share of all words' heat."""

    word: str
    heat: Heat
    share: float


class Explanation(NamedTuple):
    """Location of a text in an image: the heat (n, n) of the whole text and of its words."""

    probability: float
    """ITM probability that the text is the image's caption."""
    heat: Heat
    words: tuple[WordHeat, ...]


def main(image: Path, text: str, model: Path, out: Path | None = None) -> None:
    """Write the figure, and print the probability and the figure's path.

    ``model`` is the folder of a checkpoint. By default, the figure is named after the image.
    """
    if not image.is_file():
        raise ValueError(f"image {image} does not exist")
    encoded = image.read_bytes()
    decoded = decode(encoded, str(image))
    explanation = explain(load_checkpoint(model), encoded, text)
    out = out or Path(f"{image.stem}.explained.png")
    draw_figure(decoded, text, explanation).save(out, "PNG")
    print(f"{explanation.probability:.1%} probability that the text is the image's caption")
    print(out)


@torch.no_grad()
def explain(checkpoint: Checkpoint, image: bytes, text: str) -> Explanation:
    """Find a text in an encoded image with a model that matches images and texts."""
    matcher = Matcher(checkpoint)
    facts, tokenizer = facts_of(checkpoint), checkpoint.tokenizer
    cleaned = tokenizer.clean(text, facts.max_words)
    if not cleaned:
        raise ValueError("the text is empty; explain, for example, 'the key left of the apple'")
    ids, mask = map(torch.from_numpy, tokenizer.encode([cleaned], facts.max_tokens))
    pixels = torch.from_numpy(Evaluate(facts.image_size)(image)[None])
    image_states = matcher.model.encode_image(pixels)
    text_states = matcher.model.encode_text(ids, mask)
    logits = matcher(text_states, mask, image_states)
    layer = attention_layer(checkpoint)
    maps = itm_maps(matcher.model, matcher.itm_head, text_states, mask, image_states, layer)
    tokens = maps[0].float().numpy()
    words = [
        (word, tokens[indices].mean(0))
        for word, indices in _words(tokenizer, cleaned, facts.max_tokens)
    ]
    total = sum(float(heat.sum()) for _, heat in words) or 1.0
    return Explanation(
        probability=float(logits.softmax(dim=1)[0, 1]),
        heat=tokens.mean(0),
        words=tuple(WordHeat(word, heat, float(heat.sum()) / total) for word, heat in words),
    )


def _words(tokenizer: TextTokenizer, text: str, max_tokens: int) -> list[tuple[str, list[int]]]:
    encoding = tokenizer.tokenizer.encode(text)
    words: dict[int, list[int]] = {}
    for index, word in enumerate(encoding.word_ids[:max_tokens]):
        if word is not None:  # [CLS] does not belong to a word.
            words.setdefault(word, []).append(index)
    starts, ends = zip(*encoding.offsets, strict=True)
    return [(text[starts[indices[0]] : ends[indices[-1]]], indices) for indices in words.values()]


def draw_figure(image: Image.Image, text: str, explanation: Explanation) -> Image.Image:
    """Draw the image, the whole text's map over it, and a map for each word."""
    small = fit(image)
    # A word with a small share of the heat must not look as hot as the others.
    dimmed = max((float(heat.max()) for _, heat, _ in explanation.words), default=0.0) / 3
    panels = [
        Panel(small, "the image", f"match {explanation.probability:.1%}"),
        Panel(overlay(small, explanation.heat), "the whole text", ""),
    ]
    for word, heat, share in explanation.words:
        shown = overlay(small, heat, max(float(heat.max()), dimmed))
        panels.append(Panel(shown, word, f"{share:.0%} of the heat"))
    return draw_panels(f"“{text}”", panels)
