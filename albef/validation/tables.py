"""The tables that suites and profiles look at, from an index and its pictures' statistics."""

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
"""The split that is trained on; all others are evaluated on."""
SCRIPTS: tuple[str, ...] = get_args(Script)
OTHER = "other"
"""Any script that is not told apart."""


def tables(index: pa.Table, stats: NDArray[np.float64]) -> Tables:
    """``images``, ``records``, ``captions`` and ``labels``, each with ``split`` and ``kind``.

    Args:
        index: of the data set, its chunks combined.
        stats: (pictures of a record, records, 10), of :func:`read_image_stats`.
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
    """A row for each image, at the place of its record."""
    frame: pd.DataFrame = index.select(["width", "height", "digest"]).to_pandas()
    if "more" in index.column_names:
        owner = pc.list_parent_indices(index["more"]).to_numpy()
        further_images = pa.Table.from_struct_array(pc.list_flatten(index["more"]).combine_chunks())
        further = further_images.select(frame.columns.to_list()).to_pandas()
        number = np.arange(len(owner)) - np.searchsorted(owner, owner)  # of the image in its record
        order = np.lexsort((owner, number))
        frame = pd.concat([frame, further.set_index(owner).iloc[order]])
    has_size = frame["width"] > 0  # the size of an image without a readable header is not known
    frame[["width", "height"]] = frame[["width", "height"]].where(has_size)
    frame["aspect"] = frame["width"] / frame["height"]
    frame[list(STATS)] = stats.reshape(-1, len(STATS))
    return frame


def _records(index: pa.Table, images: pd.DataFrame) -> pd.DataFrame:
    """A row for each record."""
    frame: pd.DataFrame = index.select(["key", "split", "digest", "image_id"]).to_pandas()
    frame = pd.concat([frame, annotations(index)], axis=1)
    by_record = images.groupby(level=0)
    frame["captions"] = pc.list_value_length(index["captions"]).to_numpy()
    frame["images"] = by_record.size()
    decoded = images["spread"].notna().groupby(level=0).all()
    frame["image"] = np.where(decoded, "decoded", "broken")
    frame["shadows"] = by_record["shadows"].max()
    for name in ("spread", "sharpness", "highlights", "entropy"):
        frame[name] = by_record[name].min()
    sides = images[["width", "height"]]
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    frame["shorter_side"] = shorter.groupby(level=0).min()
    frame["longer_side"] = longer.groupby(level=0).max()
    frame["aspect_ratio"] = (longer / shorter).groupby(level=0).max()
    frame["elsewhere"] = _elsewhere(frame, images)
    if len(images) > len(frame):  # records are repeated where all of their images are
        frame["digest"] = images["digest"].groupby(level=0).agg(" ".join)
    first_records = frame.drop_duplicates("digest").set_index("digest")
    twin = frame["digest"].map(first_records["key"])
    same_id = frame["digest"].map(first_records["image_id"]) == frame["image_id"]
    frame["twin"] = twin.where(~same_id, "")
    return frame


def _elsewhere(records: pd.DataFrame, images: pd.DataFrame) -> "pd.Series[Any]":
    """For each record that is evaluated on the key of a training record with one of its images,
    or ""; null for training records."""
    train = records["split"] == TRAIN
    owned = images[["digest"]].assign(key=records["key"], train=train)
    trained = owned[owned["train"]].drop_duplicates("digest").set_index("digest")["key"]
    shared = owned.loc[~owned["train"], "digest"].map(trained).astype(object)
    keys = shared.groupby(level=0).first().reindex(records.index)
    return keys.where(keys.notna(), "").where(~train, None)


def _captions(index: pa.Table, records: pd.DataFrame) -> pd.DataFrame:
    """A row for each caption."""
    owner = pc.list_parent_indices(index["captions"]).to_numpy()
    texts = pc.list_flatten(index["captions"]).combine_chunks()
    record = records[["key", "split", "kind", "digest"]].iloc[owner].reset_index(drop=True)
    frame: pd.DataFrame = record[["key", "split", "kind"]]
    words = pc.list_flatten(index["caption_words"]).to_numpy()
    return frame.assign(
        caption=texts.to_pandas(),
        words=words,
        nonempty_words=np.where(words > 0, words, np.nan),  # an empty one is not short as well
        script=scripts(texts).to_pandas(),
        images=_stood(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), record["digest"]),
    )


def _stood(texts: pa.Array, digests: "pd.Series[Any]") -> NDArray[np.int64]:
    """At how many different images each text stands."""
    codes, _ = pd.factorize(texts.to_pandas())
    images, _ = pd.factorize(digests)
    pairs = pd.DataFrame({"text": codes, "image": images}).drop_duplicates()
    counts: NDArray[np.int64] = np.bincount(pairs["text"], minlength=1)
    return counts[codes]


def _labels(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each label of a split, with its share of the labelled records."""
    labelled = records[records["label"].notna() & (records["label"] != "")]
    counts = labelled.groupby(["kind", "split", "label"]).size().rename("records").reset_index()
    totals = counts.groupby(["kind", "split"])["records"].transform("sum")
    return counts.assign(share=counts["records"] / totals, key=counts["label"])


def scripts(texts: pa.Array) -> pa.Array:
    """For each text the script that most of its letters are of; null where it has no letter.

    Of two with equally many the first of :data:`SCRIPTS`.
    """
    letters = _letters(texts, r"\p{L}\p{M}")
    names = np.full(len(letters), None, object)
    todo = np.flatnonzero(letters > 0)
    highest = np.zeros(len(todo), np.int64)
    counted = np.zeros(len(todo), np.int64)
    for name in SCRIPTS:
        count = _letters(texts.take(pa.array(todo)), rf"\p{{{name}}}")
        counted += count
        is_higher = count > highest
        names[todo[is_higher]] = name
        highest = np.maximum(highest, count)
        unsure = counted < letters[todo]  # what has letters of a script that was not looked for yet
        todo, highest, counted = todo[unsure], highest[unsure], counted[unsure]
        if not len(todo):
            break
    names[todo[letters[todo] - counted > highest]] = OTHER
    return pa.array(names, pa.string())


def _letters(texts: pa.Array, classes: str) -> NDArray[np.int64]:
    """How many characters of each text are of some classes: vowel signs are letters here."""
    return np.asarray(pc.count_substring_regex(texts, f"[{classes}]").fill_null(0), np.int64)


def count_words(captions: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """How often each word stands in captions: in small letters, without the punctuation around."""
    words = pc.list_flatten(pc.utf8_split_whitespace(captions))
    counts = pc.value_counts(pc.utf8_trim(pc.utf8_lower(words), ".,;:!?\"'()"))
    return Counter({c["values"]: c["counts"] for c in counts.to_pylist() if c["values"]})
