"""Rejected rows of a source, and the fixed list of reasons for rejection."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reason for rejecting a row; docs/explanation/what-ingest-rejects.md explains each."""

    words: str
    """The reason in a few words."""

    def __new__(cls, value: str, words: str = "") -> "Reason":
        """Create a member from its name, with a description in a few words."""
        member = str.__new__(cls, value)
        member._value_, member.words = value, words
        return member

    MALFORMED_ROW = "malformed_row", "not what its format says"
    MISSING_FIELD = "missing_field", "a field is missing or of a wrong type"
    NO_CAPTION = "no_caption", "nothing is said of the picture"
    CAPTION_TOO_LONG = "caption_too_long", "the caption is too long"
    MISSING_FILE = "missing_file", "the picture is not there"
    OUTSIDE_ROOT = "outside_root", "the picture lies outside its folder"
    BAD_URL = "bad_url", "no http or https address"
    PRIVATE_ADDRESS = "private_address", "a private address"
    UNREACHABLE = "unreachable", "no such host, or no connection"
    TIMED_OUT = "timed_out", "the server did not answer in time"
    NOT_FOUND = "not_found", "the server says it is gone"
    HTTP_ERROR = "http_error", "another error of the server"
    OPTED_OUT = "opted_out", "the server asks not to be used for training"
    TOO_MANY_BYTES = "too_many_bytes", "the file is too large"
    NO_IMAGE = "no_image", "no picture of a known format"
    TOO_MANY_PIXELS = "too_many_pixels", "too many pixels"
    UNDECODABLE = "undecodable", "truncated or damaged"
    TOO_SMALL = "too_small", "the picture is too small"
    TOO_ELONGATED = "too_elongated", "the picture is too elongated"
    LOW_SCORE = "low_score", "its score is too low"
    BLURRED = "blurred", "the picture is blurred"
    TOO_DARK = "too_dark", "the picture is too dark"
    TOO_LIGHT = "too_light", "the picture is too light"
    BARE = "bare", "the picture holds too little"
    DUPLICATE = "duplicate", "the file of an earlier picture"
    NEAR_DUPLICATE = "near_duplicate", "looks like an earlier picture"
    CONTAMINATION = "contamination", "is evaluated on"
    DAMAGED_MEMBER = "damaged_member", "a damaged part of a file"
    CUT_SHARD = "cut_shard", "a shard that ends too early: how many rows are lost is not known"


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
        super().__init__(detail)
        self.reason = reason

    @classmethod
    def by(cls, error: Exception) -> "RowError":
        """Return the rejection of a row that led to an error of any type."""
        if isinstance(error, RowError):
            return error
        detail = f"the row cannot be read ({type(error).__name__}: {str(error)[:200]})"
        return cls(Reason.MALFORMED_ROW, detail)
