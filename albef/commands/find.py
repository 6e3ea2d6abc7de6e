"""``albef find``: the pictures of a run's test split that fit a text best; no torch.

The text is compared with every picture (ITC), then read together with the best of them (ITM).
"""

import base64
import html
import logging
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from albef.config import ParamsError, nearest, read_yaml, validate
from albef.data.cache import ShardCache
from albef.data.shards import Shards
from albef.layout import PARAMS, Layout, Paths, runtime
from albef.runtime import load
from albef.runtime.matching import Matching, matching
from albef.runtime.model import BATCH, Floats, softmax

FOLDER = Path(".albef") / "find"
"""Page and image features; nothing that is kept."""
SPLIT = "test"
RERANKED = 32
"""Pictures that are read together with the text, or more where more are asked for."""

log = logging.getLogger("albef")


class Found(NamedTuple):
    """A picture and how well it fits.

    Attributes:
        key: of its record.
        probability: that it and the text belong together, by ITM.
        caption: the first of its record.
        image: encoded.
    """

    key: str
    probability: float
    caption: str
    image: bytes


def main(text: str, run: str, k: int, show: bool = False) -> None:
    """Print the pictures found and the path of a page that shows them.

    Args:
        text: what to look for.
        run: an entry of tasks.
        k: how many pictures.
        show: open the page.

    Raises:
        ParamsError: no such run, or an empty text.
        ExportError: the run has not been exported.
        ShardError: its data set is not there.
    """
    if not text.strip():
        raise ParamsError("the text is empty; say what to look for, as 'a dog left of an apple'")
    if k < 1:
        raise ParamsError(f"-k {k}: at least one picture")
    params = read_yaml(PARAMS)
    layout = Layout(validate(Paths, params.get("paths"), where=str(PARAMS), key="paths"))
    dataset = _dataset(params, run)
    model = matching(load(layout.export(run)), str(layout.export(run)))
    cache = ShardCache.of(runtime(params.get("runtime")))
    shards = Shards(layout.data(dataset), SPLIT, cache=cache)
    found = find(model, shards, text, k)
    width = max(len(item.key) for item in found)
    for item in found:
        print(f"{item.key:{width}}  {item.probability:6.1%}  {item.caption}")
    page = FOLDER / "found.html"
    _write(page, _page(text, run, found).encode())
    print(page)
    if show and not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser was found; open {page.resolve()} yourself", file=sys.stderr)


def find(model: Matching, shards: Shards, text: str, k: int) -> list[Found]:
    """The ``k`` pictures of a split that fit ``text`` best, best first."""
    sim = image_features(model, shards) @ model.embed_text([text])[0]
    best = np.argsort(-sim, kind="stable")[: max(k, RERANKED)]
    records = [shards[int(i)] for i in best]
    logits = model.match_logits([record.image for record in records], [text] * len(records))
    margin = logits[:, 1] - logits[:, 0]  # orders as the probability does, where that is all ones
    order = np.argsort(-margin, kind="stable")[:k]
    share = softmax(logits)[:, 1]
    return [
        Found(records[i].key, float(share[i]), records[i].captions[0], records[i].image)
        for i in order
    ]


def image_features(model: Matching, shards: Shards) -> Floats:
    """``image_feat`` (n, E) of a split, kept under :data:`FOLDER` for the next time."""
    path = FOLDER / f"{model.digest[:16]}-{shards.digest[:16]}-{shards.split}.npy"
    try:
        kept: Floats = np.load(path, allow_pickle=False)
        if kept.shape == (len(shards), model.embed_dim):
            return kept
    except (OSError, ValueError, EOFError):  # not there, or damaged: it is only a copy
        pass
    print(f"reading the {len(shards)} pictures of {shards.name} once ...", file=sys.stderr)
    parts = [
        model.embed_image([shards[i].image for i in range(start, min(start + BATCH, len(shards)))])
        for start in range(0, len(shards), BATCH)
    ]
    features: Floats = np.concatenate(parts)
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npy")
    np.save(part, features)
    part.replace(path)
    return features


def _dataset(params: dict[str, Any], run: str) -> str:
    """The data set of a run."""
    tasks = params.get("tasks")
    runs = [str(name) for name in tasks] if isinstance(tasks, dict) else []
    if not isinstance(tasks, dict) or run not in tasks:
        near = nearest(run, runs)
        raise ParamsError(
            f"{PARAMS} has no run {run!r} under tasks"
            + (f"; did you mean {near}?" if near else f"; there are {', '.join(runs) or 'none'}")
        )
    section = tasks[run]
    dataset = section.get("dataset") if isinstance(section, dict) else None
    if not isinstance(dataset, str):
        raise ParamsError(f"{PARAMS}: tasks.{run}.dataset must name a data set")
    return dataset


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


def _page(text: str, run: str, found: Sequence[Found]) -> str:
    """A page that needs no other file."""
    items = [
        f'<li><figure><img alt="{html.escape(item.caption)}" src="{_uri(item.image)}">'
        f"<figcaption>{html.escape(item.caption)}"
        f"<small>{item.probability:.1%} · {html.escape(item.key)}</small></figcaption>"
        "</figure></li>"
        for item in found
    ]
    return _PAGE.format(text=html.escape(text), run=html.escape(run), items="\n".join(items))


def _uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg" if image[:2] == b"\xff\xd8" else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)
