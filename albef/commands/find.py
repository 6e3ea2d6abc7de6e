"""``albef find``: the pictures of a split that fit a text best; no torch.

The text is compared with every picture (ITC), then read together with the best of them (ITM).
"""

import base64
import html
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from albef.config import ParamsError
from albef.data.shards import Shards
from albef.io import atomic, write_atomic
from albef.runtime import load
from albef.runtime.matching import Matching, as_matching
from albef.runtime.model import Floats, batches, softmax

RERANKED = 32
"""Pictures that are read together with the text, or more where more are asked for."""


class Hit(NamedTuple):
    """A picture, encoded, with key and first caption of its record, and how well it fits."""

    key: str
    probability: float
    """That it and the text belong together, by ITM."""
    caption: str
    image: bytes


def main(
    export: Path, shards: Shards, text: str, k: int, folder: Path, *, show: bool = False
) -> None:
    """Print the ``k`` pictures of a split that fit a text best, and the path of a page that shows
    them, in ``folder``; there image features lie too, for the next time.

    Raises:
        ParamsError: an empty text.
        ExportError: the run has not been exported.
    """
    if not text.strip():
        raise ParamsError("the text is empty; say what to look for, as 'a dog left of an apple'")
    if k < 1:
        raise ParamsError(f"-k {k}: at least one picture")
    hits = find(as_matching(load(export), str(export)), shards, text, k, folder)
    width = max(len(hit.key) for hit in hits)
    for hit in hits:
        print(f"{hit.key:{width}}  {hit.probability:6.1%}  {hit.caption}")
    page = folder / "found.html"
    write_atomic(page, _render(text, export.name, hits))
    print(page)
    if show and not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser was found; open {page.resolve()} yourself", file=sys.stderr)


def find(model: Matching, shards: Shards, text: str, k: int, folder: Path) -> list[Hit]:
    """The ``k`` pictures of a split that fit ``text`` best, best first."""
    sim = image_features(model, shards, folder) @ model.embed_text([text])[0]
    best = np.argsort(-sim, kind="stable")[: max(k, RERANKED)]
    records = [shards[int(i)] for i in best]
    logits = model.match_logits([record.image for record in records], [text] * len(records))
    margin = logits[:, 1] - logits[:, 0]  # orders as the probability does, where that is all ones
    share = softmax(logits)[:, 1]
    return [
        Hit(records[i].key, float(share[i]), records[i].captions[0], records[i].image)
        for i in np.argsort(-margin, kind="stable")[:k]
    ]


def image_features(model: Matching, shards: Shards, folder: Path) -> Floats:
    """``image_feat`` (n, E) of a split, kept in ``folder`` for the next time."""
    path = folder / f"{model.digest[:16]}-{shards.digest[:16]}-{shards.split}.npy"
    try:
        cached: Floats = np.load(path, allow_pickle=False)
        if cached.shape == (len(shards), model.embed_dim):
            return cached
    except (OSError, ValueError, EOFError):  # not there, or damaged: it is only a copy
        pass
    print(f"reading the {len(shards)} pictures of {shards.name} once ...", file=sys.stderr)
    parts = [range(len(shards))[part] for part in batches(len(shards))]
    features: Floats = np.concatenate(
        [model.embed_image([shards[i].image for i in part]) for part in parts]
    )
    with atomic(path) as part, part.open("wb") as file:
        np.save(file, features)
    return features


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{text}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff }}
h1 {{ font-size: 1.3rem; margin: 0 }} header p {{ margin: .2rem 0 1.5rem; color: #666 }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1.2rem;
      list-style: none; padding: 0; margin: 0 }}
img {{ width: 100%; aspect-ratio: 1; object-fit: contain; border: 1px solid #ddd;
       border-radius: 6px; background: #fafafa }}
figure {{ margin: 0 }} figcaption small {{ display: block; color: #666 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #161616; color: #eee }}
  header p, figcaption small {{ color: #aaa }} img {{ border-color: #333 }} }}
</style>
<header><h1>{text}</h1><p>found by {run}, best first</p></header>
<ol>
{items}
</ol>
</html>
"""


def _render(text: str, run: str, hits: Sequence[Hit]) -> str:
    """A page that needs no other file."""
    items = [
        f'<li><figure><img alt="{html.escape(hit.caption)}" src="{_data_url(hit.image)}">'
        f"<figcaption>{html.escape(hit.caption)}"
        f"<small>{hit.probability:.1%} · {html.escape(hit.key)}</small></figcaption>"
        "</figure></li>"
        for hit in hits
    ]
    return _PAGE.format(text=html.escape(text), run=html.escape(run), items="\n".join(items))


def _data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg" if image[:2] == b"\xff\xd8" else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
