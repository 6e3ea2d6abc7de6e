"""``albef find``: the images of a split that fit a text best. No torch.

The text is compared with every image (ITC), then read together with the best ones (ITM).
"""

import sys
import webbrowser
from pathlib import Path
from typing import NamedTuple

import numpy as np

from albef.commands.panels import Panel, draw_panels, fit
from albef.config import ParamsError
from albef.data.image_decoding import decode
from albef.data.shards import Shards
from albef.io import atomic, printable
from albef.runtime import load
from albef.runtime.matching import Matching, as_matching
from albef.runtime.model import Floats, batches, softmax

RERANKED = 32
"""Minimum number of images that are read together with the text. A larger ``-k`` increases it."""


class Hit(NamedTuple):
    """Encoded image with its record's key and first caption."""

    key: str
    similarity: float
    """Cosine of the features of text and image."""
    probability: float | None
    """ITM probability that the text is the image's caption; None if the model ranks by similarity
    alone."""
    caption: str
    image: bytes


def main(
    export: Path, shards: Shards, text: str, k: int, folder: Path, *, show: bool = False
) -> None:
    """Print the ``k`` images of a split that fit a text best, and the path of an overview image.

    The overview is written to ``folder``. Image features are cached there for the next call.
    """
    if not text.strip():
        raise ParamsError("the text is empty; search, for example, for 'a dog left of an apple'")
    hits = find(as_matching(load(export), str(export)), shards, text, k, folder)
    width = max(len(hit.key) for hit in hits)
    panels = []
    for key, similarity, probability, caption, image in hits:
        score = f"{similarity:.3f}" if probability is None else f"{probability:.1%}"
        print(f"{key:{width}}  {score:>6}  {printable(caption)}")
        panels.append(Panel(fit(decode(image, key)), caption, f"{score} · {key}"))
    page = folder / "found.png"
    draw_panels(text, panels).save(page)
    print(page)
    if show and not webbrowser.open(page.resolve().as_uri()):
        print(f"there is no image viewer; open {page.resolve()} yourself", file=sys.stderr)


def find(model: Matching, shards: Shards, text: str, k: int, folder: Path) -> list[Hit]:
    """Return the ``k`` images of a split that fit ``text`` best, best first."""
    sim = image_features(model, shards, folder) @ model.embed_text([text])[0]
    best = np.argsort(-sim, kind="stable")[: max(k, RERANKED)]
    records = [shards[int(i)] for i in best]
    scores, probability = sim[best], None
    if model.reranks:
        logits = model.match_logits([record.image for record in records], [text] * len(records))
        probability = softmax(logits)[:, 1]
        # The margin has the order of the probability, but does not saturate at 1.
        scores = model.rank_scores(logits[:, 1] - logits[:, 0], scores)
    return [
        Hit(
            records[i].key,
            float(sim[best[i]]),
            None if probability is None else float(probability[i]),
            records[i].captions[0],
            records[i].image,
        )
        for i in np.argsort(-scores, kind="stable")[:k]
    ]


def image_features(model: Matching, shards: Shards, folder: Path) -> Floats:
    """Return ``image_feat`` (n, E) of a split, cached in ``folder``."""
    path = folder / f"{model.digest[:16]}-{shards.digest[:16]}-{shards.split}.npy"
    try:
        cached: Floats = np.load(path, allow_pickle=False)
        if cached.shape == (len(shards), model.embed_dim):
            return cached
    # The cache is missing or damaged; it can always be rebuilt.
    except (OSError, ValueError, EOFError):
        pass
    print(f"computing features of {len(shards)} images of {shards.name}, once", file=sys.stderr)
    parts = [range(len(shards))[part] for part in batches(len(shards))]
    features: Floats = np.concatenate(
        [model.embed_image([shards[i].image for i in part]) for part in parts]
    )
    with atomic(path) as part, part.open("wb") as file:
        np.save(file, features)
    return features
