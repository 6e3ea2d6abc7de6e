"""Limits beyond which a dataset is refused: the section ``validate``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from albef.config import Section, Share

Limit = Annotated[float, Field(gt=0)] | None
Script = Literal[
    "Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew",
    "Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Georgian", "Armenian", "Ethiopic",
]  # fmt: skip
"""Scripts that validation distinguishes, by their Unicode names."""


class Limits(Section):
    """Limits of a drift measure; null sets no limit."""

    warn: Limit = None
    """Validation warns above this value."""
    stop: Limit = None
    """Validation refuses the dataset above this value."""

    def level(self, value: float) -> str:
        """Return the outcome for a value: ``met``, ``warned`` or ``stopped``."""
        if self.stop is not None and value > self.stop:
            return "stopped"
        return "warned" if self.warn is not None and value > self.warn else "met"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn is not None and self.stop is not None and self.warn > self.stop:
            raise ValueError(f"warn ({self.warn:g}) must not exceed stop ({self.stop:g})")
        return self


class Movement(Section):
    """Limits on the distance between the distributions of a dataset and a reference."""

    divergence: Limits = Limits()
    """Kullback-Leibler divergence of each histogram from the reference, in nats."""
    shift: Limits = Limits()
    """Largest move of a quantile (5, 25, 50, 75 or 95 %). The unit is the distance between the 5 %
    and 95 % quantiles of the reference, or its median if these are equal."""


class DriftConfig(Section):
    """Limits on drift from the accepted profile and from the evaluation data."""

    accepted: Movement = Movement(
        divergence=Limits(warn=0.1, stop=0.5), shift=Limits(warn=0.25, stop=1.0)
    )
    """Limits for drift from the dataset's accepted profile, if ``validate.accepted`` names one."""
    evaluation: Movement = Movement(divergence=Limits(warn=0.5), shift=Limits(warn=0.5))
    """Limits for drift of the training split from the evaluation splits of the same dataset."""


class ValidateConfig(Section):
    """Conditions under which a dataset is refused."""

    max_empty_captions: Share = 0.0
    """Maximum share of captions without a word."""
    min_caption_words: Annotated[int, Field(ge=0)] = 2
    """A caption with fewer words counts as short."""
    max_short_captions: Share = 0.05
    """Maximum share of short captions. Questions, statements and other annotations are not
    counted."""
    max_caption_words: Annotated[int, Field(ge=1)] = 500
    """Maximum number of words of a caption. The default is what ``ingest.max_caption_chars``
    allows."""
    max_caption_images: Share = 0.05
    """A caption counts as repeated if a larger share of the different images has it, and more than
    ten images."""
    max_repeated_captions: Share = 0.05
    """Maximum share of repeated captions. Questions, statements and other annotations are not
    counted."""
    scripts: Annotated[list[Script], Field(min_length=1)] = Field(["Latin"])
    """Scripts that captions may be written in. The script of a caption is the one with most of its
    letters."""
    max_other_scripts: Share = 0.01
    """Maximum share of captions in another script."""
    max_duplicate_images: Share = 0.02
    """Maximum share of records whose image appears in an earlier record under another image id."""
    max_shared_images: Share = 0.0
    """Maximum share of evaluation records whose image also appears in the training split."""
    min_image_side: Annotated[int, Field(ge=1)] = 16
    """Minimum length of an image's shorter side, in pixels."""
    max_image_side: Annotated[int, Field(ge=1)] = 20000
    """Maximum length of an image's longer side, in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 20.0
    """Maximum ratio of an image's longer side to its shorter side."""
    min_image_spread: Annotated[float, Field(ge=0, le=128)] = 2.0
    """An image is blank if the standard deviation of each colour (0 to 255) is below this."""
    max_blank_images: Share = 0.001
    """Maximum share of records with a blank image."""
    max_decode_failures: Share = 0.0
    """Maximum share of records with an image that cannot be decoded."""
    max_label_share: Share = 0.8
    """Maximum share, in any split, of the most frequent label of statements and comparisons, or
    answer of questions."""
    max_boxes_outside: Share = 0.0
    """Maximum share of expressions with a box or proposal that is not within its image."""
    max_boxes_unproposed: Share = 0.1
    """Maximum share of expressions whose box is not overlapped by half (IoU) by any of its
    proposals."""
    drift: DriftConfig = DriftConfig()
    """Limits on how far distributions may move."""
    accepted: dict[str, str] = Field({})
    """Accepted profile of each dataset: a file in ``profiles`` by dataset name. New versions of the
    dataset are compared with it. `albef data accept NAME` creates the file."""
