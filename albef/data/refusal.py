"""A row of a source that became no record, and the fixed list of reasons for it."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a row is set aside; docs/data.md says a sentence about each."""

    MALFORMED_ROW = "malformed_row"
    """The row is not what its format says: no object, too few columns, wrong encoding."""
    MISSING_FIELD = "missing_field"
    """A field that a record needs is missing or of a wrong type."""
    NO_CAPTION = "no_caption"
    """Nothing is left of its captions after cleaning."""
    CAPTION_TOO_LONG = "caption_too_long"
    """A caption beyond the limit."""
    MISSING_FILE = "missing_file"
    """Its picture is not there or cannot be read."""
    OUTSIDE_ROOT = "outside_root"
    """Its picture's path leaves the folder of pictures."""
    BAD_URL = "bad_url"
    """No http or https address."""
    PRIVATE_ADDRESS = "private_address"
    """The address resolves to a private, loopback or link-local one."""
    UNREACHABLE = "unreachable"
    """No such host, or no connection."""
    TIMED_OUT = "timed_out"
    """The server did not answer in time."""
    NOT_FOUND = "not_found"
    """The server says that it is gone."""
    HTTP_ERROR = "http_error"
    """Another error of the server."""
    OPTED_OUT = "opted_out"
    """The server asks not to be used for training."""
    TOO_MANY_BYTES = "too_many_bytes"
    """Larger than the limit."""
    NO_IMAGE = "no_image"
    """Its bytes are no picture of a format that is read."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More pixels than the limit, by its header."""
    UNDECODABLE = "undecodable"
    """Truncated or damaged."""
    TOO_SMALL = "too_small"
    """A side below the limit."""
    TOO_ELONGATED = "too_elongated"
    """A longer to shorter side beyond the limit."""
    DUPLICATE = "duplicate"
    """The bytes of an earlier picture, where the rule drops them."""
    NEAR_DUPLICATE = "near_duplicate"
    """Looks as an earlier picture does, where the rule drops them."""
    CONTAMINATION = "contamination"
    """In a training split, a picture of an evaluation split or one that looks like it."""
    DAMAGED_MEMBER = "damaged_member"
    """A member of a shard that cannot be read."""
    CUT_SHARD = "cut_shard"
    """A shard that ends too early: nobody knows how many of its rows are lost."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was set aside.

    Attributes:
        source: name of the source within the data set.
        line: of the row in its file, from 1, or its place in the source.
        key: what names the row there: a file, an address, an id; may be empty.
        reason: one of the fixed list.
        detail: what exactly, as a sentence.
        picture: a small JPEG to look at, where there is one.
    """

    source: str
    line: int
    key: str
    reason: Reason
    detail: str
    picture: bytes = b""


class Refused(ValueError):
    """Raised where a row turns out to be a bad one; its text is the detail.

    Attributes:
        reason: one of the fixed list.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    @classmethod
    def by(cls, error: Exception) -> "Refused":
        """The refusal of a row that led to an error, whatever it is."""
        if isinstance(error, Refused):
            return error
        what = f"it cannot be read ({type(error).__name__}: {str(error)[:200]})"
        return cls(Reason.MALFORMED_ROW, what)

    def of(self, line: int, key: str) -> Refusal:
        """The refusal of the row; whoever knows the source's name fills it in."""
        return Refusal("", line, key, self.reason, str(self))
