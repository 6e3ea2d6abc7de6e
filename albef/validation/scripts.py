"""In which script a text is written."""

from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.validation.config import Script

SCRIPTS: tuple[str, ...] = get_args(Script)
OTHER = "other"
"""Any script that is not told apart."""


def scripts(texts: pa.Array) -> pa.Array:
    """For each text the script that most of its letters are of; null where it has no letter.

    Of two with equally many the first of :data:`SCRIPTS`.
    """
    letters = _letters(texts, r"\p{L}\p{M}")
    found = np.full(len(letters), None, object)
    open_ = np.flatnonzero(letters > 0)
    most = np.zeros(len(open_), np.int64)
    known = np.zeros(len(open_), np.int64)
    for name in SCRIPTS:
        count = _letters(texts.take(pa.array(open_)), rf"\p{{{name}}}")
        known += count
        better = count > most
        found[open_[better]] = name
        most = np.maximum(most, count)
        rest = known < letters[open_]  # what has letters of a script that was not looked for yet
        open_, most, known = open_[rest], most[rest], known[rest]
        if not len(open_):
            break
    found[open_[letters[open_] - known > most]] = OTHER
    return pa.array(found, pa.string())


def _letters(texts: pa.Array, classes: str) -> NDArray[np.int64]:
    """How many characters of each text are of some classes: vowel signs are letters here."""
    return np.asarray(pc.count_substring_regex(texts, f"[{classes}]").fill_null(0), np.int64)
