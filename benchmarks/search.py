"""An image index in 8-bit numbers against all features in float: ``python -m benchmarks.search``

Features are unit vectors around random centers, as those of similar images are. A table in Markdown
has the memory, the milliseconds of a query, which take turns, and the recall of the ten best.
"""

import argparse

import numpy as np

from albef.runtime.model import Floats
from albef.serving.indexes.index import About, Entry, Index
from benchmarks.timing import alternate, machine, spread

_SPACE, _BEST, _QUERIES = "random/float32", 10, 100
_SPREAD = 0.5  # Length of a feature's difference from its center, which has length 1.


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.search")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    feats = _features(options.rows + _QUERIES, options.width)
    feats, queries = feats[_QUERIES:], feats[:_QUERIES]
    index = Index(None, About("random", _SPACE, "random", options.width))
    index.add(_SPACE, [Entry(f"{i}", f"{i}", feat, b"", b"") for i, feat in enumerate(feats)])
    found = [{int(hit.id) for hit in index.search(_SPACE, each, _BEST)} for each in queries]
    right = [set(np.argpartition(-(feats @ each), _BEST)[:_BEST].tolist()) for each in queries]
    recall = np.mean([len(a & b) / _BEST for a, b in zip(found, right, strict=True)])
    calls = {
        "float": lambda: np.argpartition(-(feats @ queries[0]), _BEST)[:_BEST],
        "index": lambda: index.search(_SPACE, queries[0], _BEST),
    }
    times = alternate(calls, options.rounds)
    mib = options.rows * (options.width + 4) / 2**20
    print(f"{machine()}\n\n{options.rows} features of width {options.width}\n")
    print("| | MiB | ms of a query | recall@10 |\n|---|---|---|---|")
    cells = {"float": (feats.nbytes / 2**20, 1.0), "index": (mib, recall)}
    for name, (size, share) in cells.items():
        shown = spread([1000 * each for each in times[name]])
        print(f"| {name} | {size:.0f} | {shown} | {share:.4f} |")


def _features(count: int, width: int) -> Floats:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(1 + count // 100, width))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    feats = centers[rng.integers(0, len(centers), count)]
    feats += _SPREAD / np.sqrt(width) * rng.normal(size=feats.shape)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    return feats.astype(np.float32)


if __name__ == "__main__":
    main()
