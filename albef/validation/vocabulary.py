"""The words of captions, and how often each is said."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc


def counted(captions: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """How often each word stands in captions: in small letters, without the punctuation around."""
    words = pc.list_flatten(pc.utf8_split_whitespace(captions))
    counts = pc.value_counts(pc.utf8_trim(pc.utf8_lower(words), ".,;:!?\"'()"))
    return Counter({c["values"]: c["counts"] for c in counts.to_pylist() if c["values"]})
