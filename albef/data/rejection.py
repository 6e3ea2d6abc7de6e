"""Rejected rows of a source, and the fixed list of reasons for rejection."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reason for rejecting a row; docs/reference/rejections.md explains each."""

    words: str
    """The reason in a few words."""

    def __new__(cls, value: str, words: str = "") -> "Reason":
        """Create a member from its name, with a description in a few words."""
        member = str.__new__(cls, value)
        member._value_, member.words = value, words
        return member

    MALFORMED_ROW = "malformed_row", "not valid in its format"
    MISSING_FIELD = "missing_field", "a field is missing or has the wrong type"
    UNLISTED = "unlisted", "in none of the lists of its source's splits"
    NO_CAPTION = "no_caption", "the image has no caption"
    CAPTION_TOO_LONG = "caption_too_long", "the caption is too long"
    MISSING_FILE = "missing_file", "the image file is missing"
    OUTSIDE_ROOT = "outside_root", "the image is outside its folder"
    BAD_URL = "bad_url", "not an http or https URL"
    PRIVATE_ADDRESS = "private_address", "a private address"
    UNREACHABLE = "unreachable", "unknown host or no connection"
    TIMED_OUT = "timed_out", "the server did not answer in time"
    NOT_FOUND = "not_found", "the server has no such file"
    HTTP_ERROR = "http_error", "another server error"
    OPTED_OUT = "opted_out", "the server opts out of training"
    TOO_MANY_BYTES = "too_many_bytes", "the file is too large"
    NO_IMAGE = "no_image", "not an image of a supported format"
    TOO_MANY_PIXELS = "too_many_pixels", "too many pixels"
    UNDECODABLE = "undecodable", "truncated or damaged"
    KILLED = "killed", "its process was ended"
    TOO_SMALL = "too_small", "the image is too small"
    TOO_ELONGATED = "too_elongated", "the image is too elongated"
    LOW_SCORE = "low_score", "its score is too low"
    DUPLICATE = "duplicate", "the same file as an earlier image"
    NEAR_DUPLICATE = "near_duplicate", "similar to an earlier image"
    CONTAMINATION = "contamination", "also in the evaluation data"
    DAMAGED_MEMBER = "damaged_member", "a damaged part of a file"
    CUT_SHARD = "cut_shard", "truncated shard; the number of lost rows is unknown"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected row."""

    source: str
    line: int
    """Line of the row in its file, from 1, or its position in the source."""
    key: str
    """Name of the row in its source: a file, an address or an id; may be empty."""
    reason: Reason
    detail: str
    """The exact problem, as an error message."""
    thumbnail: bytes = b""
    """Small JPEG for a person to look at; empty if there is none."""


class RowError(ValueError):
    """Error for a row that is rejected; its message is the detail."""

    def __init__(self, reason: Reason, detail: str) -> None:
        # Its arguments stay those of the subclass, so that processes can exchange it.
        self.reason, self._detail = reason, detail

    def __str__(self) -> str:
        return self._detail

    @classmethod
    def by(cls, error: Exception) -> "RowError":
        """Return the rejection of a row that led to an error of any type but MemoryError."""
        if isinstance(error, MemoryError):
            raise error
        if isinstance(error, RowError):
            return error
        detail = f"the row cannot be read ({type(error).__name__}: {str(error)[:200]})"
        return cls(Reason.MALFORMED_ROW, detail)
