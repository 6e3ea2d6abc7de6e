"""Tables that suites and profiles read, made from an index and the statistics of its images."""

from collections import Counter
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.validation.annotations import annotations
from albef.validation.config import Script
from albef.validation.image_stats import STATS

Tables = dict[str, pd.DataFrame]
TRAIN = "train"
"""The training split. Models are evaluated on all others."""
SCRIPTS: tuple[str, ...] = get_args(Script)
OTHER = "other"
"""Any script that is not distinguished."""
_FEW = 10  # images that may share a caption in a dataset of any size


def tables(index: pa.Table, stats: NDArray[np.float64]) -> Tables:
    """Return the tables ``images``, ``records``, ``captions`` and ``labels``.

    Each has the columns ``split`` and ``kind``. The chunks of the dataset's index are combined, and
    ``stats`` are what :func:`read_image_stats` returns.
    """
    images = _images(index, stats)
    records = _records(index, images)
    return {
        "records": records,
        "captions": _captions(index, records),
        "labels": _labels(records),
        "images": images.assign(split=records["split"], kind=records["kind"]),
    }


def _images(index: pa.Table, stats: NDArray[np.float64]) -> pd.DataFrame:
    """Return a row for each image, indexed by the position of its record."""
    frame: pd.DataFrame = index.select(["width", "height", "digest"]).to_pandas()
    if "more" in index.column_names:
        owner = pc.list_parent_indices(index["more"]).to_numpy()
        further_images = pa.Table.from_struct_array(pc.list_flatten(index["more"]).combine_chunks())
        further = further_images.select(frame.columns.to_list()).to_pandas()
        # Position of each image in its record.
        number = np.arange(len(owner)) - np.searchsorted(owner, owner)
        order = np.lexsort((owner, number))
        frame = pd.concat([frame, further.set_index(owner).iloc[order]])
    has_size = frame["width"] > 0  # an image without a readable header has no known size
    frame[["width", "height"]] = frame[["width", "height"]].where(has_size)
    frame["aspect"] = frame["width"] / frame["height"]
    frame[list(STATS)] = stats.reshape(-1, len(STATS))
    return frame


def _records(index: pa.Table, images: pd.DataFrame) -> pd.DataFrame:
    frame: pd.DataFrame = index.select(["key", "split", "digest", "image_id"]).to_pandas()
    frame = pd.concat([frame, annotations(index)], axis=1)
    by_record = images.groupby(level=0)
    frame["captions"] = pc.list_value_length(index["captions"]).to_numpy()
    frame["images"] = by_record.size()
    decoded = images["spread"].notna().groupby(level=0).all()
    frame["image"] = np.where(decoded, "decoded", "broken")
    frame["spread"] = by_record["spread"].min()
    sides = images[["width", "height"]]
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    frame["shorter_side"] = shorter.groupby(level=0).min()
    frame["longer_side"] = longer.groupby(level=0).max()
    frame["aspect_ratio"] = (longer / shorter).groupby(level=0).max()
    frame["elsewhere"] = _elsewhere(frame, images)
    if len(images) > len(frame):  # a record is a duplicate if all its images are
        frame["digest"] = images["digest"].groupby(level=0).agg(" ".join)
    first_records = frame.drop_duplicates("digest").set_index("digest")
    first_keys = frame["digest"].map(first_records["key"])
    same_id = frame["digest"].map(first_records["image_id"]) == frame["image_id"]
    frame["duplicate_of"] = first_keys.where(~same_id, "")
    return frame


def _elsewhere(records: pd.DataFrame, images: pd.DataFrame) -> "pd.Series[Any]":
    """Return the key of a training record that shares an image with an evaluation record.

    The value is "" if there is none, and null for training records.
    """
    train = records["split"] == TRAIN
    owned = images[["digest"]].assign(key=records["key"], train=train)
    trained = owned[owned["train"]].drop_duplicates("digest").set_index("digest")["key"]
    shared = owned.loc[~owned["train"], "digest"].map(trained).astype(object)
    keys = shared.groupby(level=0).first().reindex(records.index)
    return keys.where(keys.notna(), "").where(~train, None)


def _captions(index: pa.Table, records: pd.DataFrame) -> pd.DataFrame:
    owner = pc.list_parent_indices(index["captions"]).to_numpy()
    texts = pc.list_flatten(index["captions"]).combine_chunks()
    record = records[["key", "split", "kind", "digest"]].iloc[owner].reset_index(drop=True)
    frame: pd.DataFrame = record[["key", "split", "kind"]]
    words = pc.list_flatten(index["caption_words"]).to_numpy()
    shares = _image_shares(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), record["digest"])
    return frame.assign(
        caption=texts.to_pandas(),
        words=words,
        # An empty caption does not count as short or repeated, too.
        nonempty_words=np.where(words > 0, words, np.nan),
        image_share=np.where(words > 0, shares, np.nan),
        script=scripts(texts).to_pandas(),
    )


def _image_shares(texts: pa.Array, digests: "pd.Series[Any]") -> NDArray[np.float64]:
    """Return the share of the different images that each text belongs to; 0 for a few images."""
    codes, _ = pd.factorize(texts.to_pandas())
    images, different = pd.factorize(digests)
    pairs = pd.DataFrame({"text": codes, "image": images}).drop_duplicates()
    counts = np.bincount(pairs["text"], minlength=1)
    shares: NDArray[np.float64] = np.where(counts > _FEW, counts / max(1, len(different)), 0.0)
    return shares[codes]


def _labels(records: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each label of a split, with its share of the labelled records."""
    labelled = records[records["label"].notna() & (records["label"] != "")]
    counts = labelled.groupby(["kind", "split", "label"]).size().rename("records").reset_index()
    totals = counts.groupby(["kind", "split"])["records"].transform("sum")
    return counts.assign(share=counts["records"] / totals, key=counts["label"])


def scripts(texts: pa.Array) -> pa.Array:
    """Return the script of most letters of each text; null if the text has no letter.

    Of two scripts with equally many letters, the first in :data:`SCRIPTS` counts.
    """
    letters = _letters(texts, r"\p{L}\p{M}")
    names = np.full(len(letters), None, object)
    names[letters > 0] = "Latin"
    is_ascii = pc.string_is_ascii(texts).fill_null(True).to_numpy(zero_copy_only=False)
    rest = np.flatnonzero((letters > 0) & ~is_ascii)
    others = texts.take(pa.array(rest))
    counts = [_letters(others, rf"\p{{{name}}}") for name in SCRIPTS]
    counts.append(letters[rest] - np.sum(counts, axis=0))
    names[rest] = np.array([*SCRIPTS, OTHER], object)[np.argmax(counts, axis=0)]
    return pa.array(names, pa.string())


def _letters(texts: pa.Array, classes: str) -> NDArray[np.int64]:
    """Count the characters of each text that belong to some classes, vowel signs included."""
    return np.asarray(pc.count_substring_regex(texts, f"[{classes}]").fill_null(0), np.int64)


def count_words(captions: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """Count each word of the captions, in lower case and without surrounding punctuation."""
    words = pc.list_flatten(pc.utf8_split_whitespace(captions))
    counts = pc.value_counts(pc.utf8_trim(pc.utf8_lower(words), ".,;:!?\"'()"))
    return Counter({c["values"]: c["counts"] for c in counts.to_pylist() if c["values"]})
