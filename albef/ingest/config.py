"""What becomes of a row on its way into a data set: the values that ingest goes by."""

from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from albef.config import Section
from albef.ingest.sources import SourceConfig, read_source
from albef.ingest.sources.rows import Split

Share = Annotated[float, Field(ge=0, le=1)]
Bound = Annotated[float, Field(ge=0)] | None


class IngestConfig(Section):
    """Rules for the rows of every data set."""

    heldout: Annotated[list[str], Field(min_length=1)]
    """Data sets whose evaluation splits no ``screened`` data set trains on."""
    max_megabytes: Annotated[float, Field(gt=0, le=64)] = 16.0
    """Size of the largest picture file, in MiB."""
    max_megapixels: Annotated[float, Field(gt=0, le=64)] = 64.0
    """Pixels of the largest picture, by its header, in units of 2^20."""
    min_side: Annotated[int, Field(ge=1)] = 16
    """Shorter side of the smallest picture in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 20.0
    """Longer to shorter side of the most elongated picture."""
    min_sharpness: Bound = None
    """A picture is blurred below this sharpness (:mod:`albef.data.image_quality`); null takes any,
    here and in what follows."""
    min_highlights: Bound = None
    """A picture is too dark if 99 % of it are less bright than this, of 255."""
    max_shadows: Bound = None
    """A picture is too light if 95 % of it are brighter than this, of 255."""
    min_entropy: Bound = None
    """A picture holds too little if the entropy of its brightness is below this, in bits."""
    max_caption_chars: Annotated[int, Field(ge=1)] = 1000
    """Characters of the longest caption, after cleaning."""
    format: Literal["jpeg", "webp"] = "jpeg"
    """How a picture is stored that cannot be stored as it is."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Quality of such a picture."""
    near_distance: Annotated[int, Field(ge=0, le=8)] | None = 4
    """Bits out of 64 in which the perceptual hashes of two pictures may differ that show the same;
    null looks for equal files only."""
    crops: Annotated[int, Field(ge=0, le=9)] = 0
    """In so many steps across and down an evaluation picture is cropped to 70 % of its area; these
    crops are known, too, where ``near_distance`` is set. 7 finds nine in ten of such crops."""
    min_yield: Share = 0.95
    """Least share of a data set's rows that must reach its shards."""


class RowsConfig(Section):
    """A data set: an entry of ``datasets``."""

    sources: Annotated[
        dict[str, Annotated[SourceConfig, PlainValidator(read_source)]], Field(min_length=1)
    ]
    """Sources by name; the fields of each are those of its ``kind``."""
    shard_mb: Annotated[int, Field(ge=1)] = 512
    """Largest size of a shard in MiB."""
    longest_side: Annotated[int, Field(ge=16)] | None = None
    """Larger pictures are stored with their longer side this long in pixels; null stores all at
    their own size."""
    duplicates: Literal["keep", "drop_exact", "drop_near"] = "keep"
    """Which training pictures are dropped that an earlier one, of another image id, shows too."""
    min_scores: dict[str, float] = Field({})
    """Least value of scores that training rows bring with them (``keep``), as ``{similarity: 0.3}``
    for LAION's lists; a row below it, or without it, is set aside."""
    split_off: dict[Split, Annotated[float, Field(gt=0, lt=1)]] = Field({})
    """Shares of the training rows that become other splits, as ``{val: 0.05, test: 0.05}``, for
    sources that have none; equal pictures come into one."""
    screened: bool = False
    """Whether training pictures are dropped that an evaluation split shows too: of this data set,
    or of one that ``ingest.heldout`` names."""
    store: str | None = None
    """Bucket or folder (``s3://...``) that keeps the shards under their digests; null keeps them in
    the product itself."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if "train" in self.split_off or sum(self.split_off.values()) >= 1:
            raise ValueError("split_off names other splits than train, with shares of less than 1")
        return self
