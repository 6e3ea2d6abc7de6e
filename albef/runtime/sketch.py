"""Histograms of a model's requests, compared with those of its validation data. No torch.

Only counts in fixed bins are kept; no image or text is stored.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef.data.image_decoding import opened
from albef.preprocessing.transforms import MEAN, STD
from albef.runtime.model import Floats, Ints, Model

NAME = "traffic.json"
"""File of an export with the counts of validation data."""
_SIDES = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 2**26)
BINS: dict[str, tuple[float, ...]] = {
    "width": _SIDES,
    "height": _SIDES,
    "brightness": tuple(range(0, 257, 16)),
    "words": (*range(21), 25, 30, 40, 60, 100, 200, 2**15),
    "unknown": (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1),
    "confidence": tuple(i / 20 for i in range(21)),
}
"""Bin edges of each quantity in ascending order; the last bin includes its upper edge. ``unknown``
is the share of unknown tokens in a text, ``confidence`` the probability of an answer."""
MIN_COUNT = 100
"""Minimum number of counts for a divergence."""
# At this number all counts are halved, so the histogram reflects the last few thousand requests.
_MAX_COUNT = 4096
_HELD_OUT = 1e-4  # The empty bins of a reference share this weight, as in validation.
Counts = NDArray[np.float64]


class Sketch:
    """Histograms of :data:`BINS`. Threads may share one, because a lost count does no harm."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {w: np.zeros(len(e) - 1) for w, e in BINS.items()}
        self._totals = dict.fromkeys(BINS, 0.0)

    def count(self, **values: float) -> None:
        """Count one value for each given quantity of :data:`BINS`."""
        for quantity, value in values.items():
            counts = self.counts[quantity]
            counts[min(bisect_right(BINS[quantity], value) - 1, len(counts) - 1)] += 1
            self._totals[quantity] += 1
            if self._totals[quantity] >= _MAX_COUNT:
                counts /= 2
                self._totals[quantity] /= 2

    def image(self, image: bytes, brightness: float) -> None:
        """Count an encoded image with a brightness from 0 to 255."""
        with opened(image) as header:
            width, height = header.size
        self.count(width=width, height=height, brightness=brightness)

    def text(self, text: str, ids: Sequence[int] | Ints, model: Model) -> None:
        """Count a text that a model reads as ids (L,), the first of which is [CLS]."""
        unknown = list(ids).count(model.tokenizer.unk_id)
        self.count(words=len(text.split()), unknown=unknown / max(1, len(ids) - 1))

    def divergence(self, quantity: str, reference: Counts) -> float:
        """Return the Kullback-Leibler divergence in nats, as in :mod:`albef.validation.drift`.

        It is NaN if there are fewer than :data:`MIN_COUNT` counts, or if the reference is empty.
        """
        counts = self.counts[quantity]
        if counts.sum() < MIN_COUNT or not reference.sum():
            return float("nan")
        empty = reference == 0
        expected = reference / reference.sum() * (1 - _HELD_OUT * empty.any())
        expected[empty] = _HELD_OUT / max(1, empty.sum())
        share = counts / counts.sum()
        seen = share > 0
        return float((share[seen] * np.log(share[seen] / expected[seen])).sum())

    def write(self, folder: Path) -> None:
        """Write the counts into an export."""
        counts = {quantity: values.tolist() for quantity, values in self.counts.items()}
        (folder / NAME).write_text(json.dumps(counts, sort_keys=True) + "\n")


def brightness(pixels: Floats) -> float:
    """Return the mean brightness, from 0 to 255, of normalized pixels (3, S, S)."""
    return 255 * float((pixels.mean((1, 2)) * STD + MEAN).mean())


def read_counts(folder: Path) -> Mapping[str, Counts]:
    """Return the counts in an export; empty if the export has none."""
    path = folder / NAME
    counts = json.loads(path.read_text()) if path.is_file() else {}
    return {quantity: np.array(counts[quantity], float) for quantity in BINS if quantity in counts}
