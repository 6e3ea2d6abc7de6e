"""Search a folder of photos by text with an export, without torch.

python examples/search_photos.py products/exports/retrieval photos "two frogs" "a key"
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import albef

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
QUERIES = (
    "a dog", "a cat", "a child who laughs", "people at a table", "a mountain", "a street at night",
    "a red car", "two birds", "flowers", "the sea",
)  # fmt: skip


def read_index(model: Any, folder: Path) -> tuple[list[Path], np.ndarray]:
    """Return the photos of a folder and their features (n, E), computed once per model and photo.

    The index is the file ``.albef.npz`` in the folder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    file, known = folder / ".albef.npz", {}
    if file.exists():
        with np.load(file) as index:
            if str(index["model"]) == model.digest:
                known = dict(zip(index["names"].tolist(), index["features"], strict=True))
    names = {f"{path.relative_to(folder)} {path.stat().st_mtime_ns}": path for path in paths}
    new = [name for name in names if name not in known]
    if new:
        features = model.embed_image([names[name] for name in new], progress=True)
        known |= dict(zip(new, features, strict=True))
    features = np.stack([known[name] for name in names])
    np.savez(file, model=model.digest, names=list(names), features=features)
    return paths, features


def main(arguments: list[str] | None = None) -> None:
    """Print the best photos for each query."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("queries", nargs="*", default=QUERIES)
    parser.add_argument("-k", type=int, default=3, help="photos per query")
    args = parser.parse_args(arguments)
    model = albef.runtime.load(args.export)
    paths, features = read_index(model, args.folder)
    similarities = model.embed_text(list(args.queries)) @ features.T
    for query, row in zip(args.queries, similarities, strict=True):
        best = np.argsort(-row)[: args.k]
        print(f"{query}: " + ", ".join(f"{paths[i].name} ({row[i]:.2f})" for i in best))


if __name__ == "__main__":
    main()
