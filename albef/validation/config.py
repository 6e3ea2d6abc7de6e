"""When a data set is refused: the section ``validate``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from albef.config import Section

Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(gt=0)] | None
Script = Literal[
    "Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew",
    "Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Georgian", "Armenian", "Ethiopic",
]  # fmt: skip
"""Scripts that are told apart, by their names in Unicode."""


class Limits(Section):
    """How far a distribution may move; null sets no limit."""

    warn: Limit = None
    """Beyond this it is told."""
    stop: Limit = None
    """Beyond this the data set is refused."""

    def level(self, value: float) -> str:
        """What a distance comes to: ``met``, ``warned`` or ``stopped``."""
        if self.stop is not None and value > self.stop:
            return "stopped"
        return "warned" if self.warn is not None and value > self.warn else "met"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn is not None and self.stop is not None and self.warn > self.stop:
            raise ValueError(f"warn ({self.warn:g}) is beyond stop ({self.stop:g})")
        return self


class Movement(Section):
    """How far the distributions of a data set may be from those of a reference."""

    divergence: Limits = Limits()
    """Kullback-Leibler divergence from the reference in nats, of each histogram."""
    shift: Limits = Limits()
    """Farthest that a quantile (5, 25, 50, 75 or 95 %) has moved, as a share of what lies between
    the reference's 5 % and 95 %, or of its median where these are equal."""


class DriftConfig(Section):
    """How far a data set may be from what was accepted, and from what it is evaluated on."""

    accepted: Movement = Movement(
        divergence=Limits(warn=0.1, stop=0.5), shift=Limits(warn=0.25, stop=1.0)
    )
    """From the data set's accepted profile, where ``validate.accepted`` names one."""
    evaluation: Movement = Movement(divergence=Limits(warn=0.5), shift=Limits(warn=0.5))
    """Of the training split from the evaluation splits of the same data set."""


class ValidateConfig(Section):
    """When a data set is refused."""

    max_empty_captions: Share = 0.0
    """Share of captions without a word."""
    min_caption_words: Annotated[int, Field(ge=0)] = 2
    """A caption with fewer words is short."""
    max_short_captions: Share = 0.05
    """Share of captions that are short; questions, statements and the like are not counted."""
    max_caption_words: Annotated[int, Field(ge=1)] = 500
    """Words of the longest caption; as many as ``ingest.max_caption_chars`` lets pass."""
    max_caption_images: Annotated[int, Field(ge=1)] = 1000
    """A caption that stands at more different images is a repeated one."""
    max_repeated_captions: Share = 0.05
    """Share of captions that are repeated; questions, statements and the like are not counted."""
    scripts: Annotated[list[Script], Field(min_length=1)] = Field(["Latin"])
    """Scripts that captions may be written in; of each the one with most of its letters counts."""
    max_other_scripts: Share = 0.01
    """Share of captions in another script."""
    max_duplicate_images: Share = 0.02
    """Share of records whose image stands in an earlier record under another image id."""
    max_shared_images: Share = 0.0
    """Share of evaluation records whose image stands in the training split too."""
    min_image_side: Annotated[int, Field(ge=1)] = 16
    """Shorter side of the smallest image in pixels."""
    max_image_side: Annotated[int, Field(ge=1)] = 20000
    """Longer side of the largest image in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 20.0
    """Longer to shorter side of the most elongated image."""
    min_image_spread: Annotated[float, Field(ge=0, le=128)] = 2.0
    """An image is blank if the standard deviation of each colour, of 0 to 255, is below this."""
    max_blank_images: Share = 0.001
    """Share of records with a blank image."""
    min_image_sharpness: Annotated[float, Field(ge=0)] = 10.0
    """An image is blurred if its sharpness (:mod:`albef.data.image_quality`) is below this."""
    max_blurred_images: Share = 1.0
    """Share of records with a blurred image."""
    min_image_highlights: Annotated[float, Field(ge=0)] = 80.0
    """An image is dark if 99 % of it are less bright than this, of 255."""
    max_dark_images: Share = 1.0
    """Share of records with a dark image."""
    max_image_shadows: Annotated[float, Field(ge=0)] = 242.0
    """An image is light if 95 % of it are brighter than this, of 255."""
    max_light_images: Share = 1.0
    """Share of records with a light image."""
    min_image_entropy: Annotated[float, Field(ge=0)] = 1.0
    """An image holds little if the entropy of its brightness is below this, in bits."""
    max_bare_images: Share = 1.0
    """Share of records with an image that holds little."""
    max_decode_failures: Share = 0.0
    """Share of records with an image that cannot be decoded."""
    max_label_share: Share = 0.8
    """Share of the most frequent label of statements and comparisons, or answer of questions, in
    any split."""
    max_boxes_outside: Share = 0.0
    """Share of expressions with a box or proposal that is not within its image."""
    max_boxes_unproposed: Share = 0.1
    """Share of expressions whose box none of its proposals overlaps by half (IoU)."""
    drift: DriftConfig = DriftConfig()
    """How far distributions may move."""
    accepted: dict[str, str] = Field({})
    """Files in ``profiles`` with the accepted profiles that new versions are held against, by data
    set; `albef data accept NAME` makes one."""
    evaluated_on: dict[str, str] = Field({})
    """Of data sets, the accepted profile of another one whose evaluation splits their training
    split is held against, as well as against their own."""
