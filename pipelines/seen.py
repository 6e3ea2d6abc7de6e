"""What the pictures of a data set look like, decoded once."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from albef.data import image_decoding as guard
from albef.data.shards import describe
from albef.io import file_digest
from albef.validation import image_stats as looks
from albef.validation.checking import seen
from pipelines.stage import Stage


def pictures(stage: Stage) -> NDArray[np.float64]:
    """What :func:`albef.validation.image_stats.looks` gives for the data set that a stage works on.

    It takes the most time of a validation, so it is kept in scratch: another threshold, or a
    profile that was accepted, asks for no decoding.

    Raises:
        ShardError: a part of the data set is missing or damaged.
    """
    folder = stage.layout.data(stage.key)
    code = " ".join(file_digest(Path(str(module.__file__))) for module in (looks, guard))
    fingerprint = hashlib.sha256(f"{describe(folder)['digest']} {code}".encode()).hexdigest()
    kept = stage.scratch(fingerprint) / "looks.npy"
    if kept.exists():
        known: NDArray[np.float64] = np.load(kept, allow_pickle=False)
        return known
    found = seen(folder, stage.runtime.threads)
    part = kept.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    part.replace(kept)
    return found
