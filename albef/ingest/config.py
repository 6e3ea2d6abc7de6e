"""Settings of ingest: limits for rows, and the entries of ``datasets``."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, field_validator, model_validator

from albef.config import Section, Share
from albef.ingest.sources import SourceConfig, read_source
from albef.ingest.sources.rows import Split


class IngestConfig(Section):
    """Rules for the rows of every dataset."""

    heldout: Annotated[list[str], Field(min_length=1)]
    """Datasets whose evaluation images are dropped from the training split of every dataset with
    ``screened: true``."""
    max_megabytes: Annotated[float, Field(gt=0, le=64)] = 16.0
    """Size of the largest image file in MiB."""
    max_megapixels: Annotated[float, Field(gt=0, le=64)] = 64.0
    """Pixels of the largest image, as stated by its header, in units of 2^20."""
    min_side: Annotated[int, Field(ge=1)] = 16
    """Shorter side of the smallest image in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 20.0
    """Largest ratio of the longer to the shorter side of an image."""
    max_caption_chars: Annotated[int, Field(ge=1)] = 1000
    """Characters of the longest caption, after cleaning; longer captions are dropped."""
    format: Literal["jpeg", "webp"] = "jpeg"
    """Format of an image that cannot be stored unchanged."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Encoding quality of such an image, 1 to 100."""
    near_distance: Annotated[int, Field(ge=0, le=8)] | None = 4
    """Most of 64 bits in which the perceptual hashes of near-duplicates differ. null compares only
    whole files."""
    crops: Annotated[int, Field(ge=0, le=9)] = 0
    """Steps across and down at which each evaluation image is cropped to 70 % of its area. If
    ``near_distance`` is set, training images are compared with these crops too. 7 finds nine in ten
    of such crops."""
    min_yield: Share = 0.95
    """Lowest share of a dataset's rows that must be kept; ingest fails below it."""


class RowsConfig(Section):
    """Dataset: an entry of ``datasets``."""

    sources: Annotated[
        dict[str, Annotated[SourceConfig, PlainValidator(read_source)]], Field(min_length=1)
    ]
    """Sources by name (letters a-z, digits, - or _); the fields of each depend on its ``kind``."""
    shard_mb: Annotated[int, Field(ge=1)] = 512
    """Largest size of a shard in MiB."""
    longest_side: Annotated[int, Field(ge=16)] | None = None
    """Longer side in pixels to which larger images are reduced; null stores all images at their
    original size."""
    duplicates: Literal["keep", "drop_exact", "drop_near"] = "keep"
    """Training images to drop if they repeat an earlier one with another image id: ``keep`` drops
    none, ``drop_exact`` drops equal files, and ``drop_near`` also drops near-duplicates."""
    min_scores: dict[str, float] = Field({})
    """Lowest scores of training rows, by a column that the source keeps (``keep``), such as
    ``{similarity: 0.3}`` for LAION's lists. A row with a lower score or no score is rejected."""
    split_off: dict[Split, Annotated[float, Field(gt=0, lt=1)]] = Field({})
    """Shares of the training rows that become other splits, such as ``{val: 0.05, test: 0.05}``,
    for sources without these splits. Equal images are put into the same split."""
    screened: bool = False
    """Drop training images that are also in an evaluation split of this dataset or of the datasets
    in ``ingest.heldout``."""
    store: str | None = None
    """Bucket or folder (``s3://...``) that stores the shards under their digests; null stores them
    in the dataset's folder."""

    @field_validator("sources")
    @classmethod
    def _check_names(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        for name in sources:  # Keys of records start with it.
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError(f"rename source {name!r}: use 1 to 40 letters a-z, digits, - or _")
        return sources

    @model_validator(mode="after")
    def _check_split_off(self) -> Self:
        if "train" in self.split_off:
            raise ValueError("split_off must not contain train, which keeps the remaining rows")
        if (total := sum(self.split_off.values())) >= 1:
            raise ValueError(f"split_off adds up to {total:g}; the sum must be below 1")
        return self
