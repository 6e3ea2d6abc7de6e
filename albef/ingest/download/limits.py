"""Limits of a download: load on servers, waiting times and the size of images."""

from typing import Annotated

from pydantic import Field

from albef.config import Section

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Limits(Section):
    """Limits of a download."""

    user_agent: Annotated[str, Field(min_length=3, max_length=200, pattern=r"^[\x20-\x7e]+$")]
    """User-Agent header of the requests. State who you are and how to reach you."""
    connections: Annotated[int, Field(ge=1, le=4096)] = 64
    """Simultaneous requests to all hosts together."""
    per_host: Annotated[int, Field(ge=1, le=256)] = 8
    """Simultaneous requests to one host."""
    connect_s: Seconds = 10.0
    """Seconds allowed for establishing a connection."""
    read_s: Seconds = 15.0
    """Seconds without a byte after which a response is abandoned."""
    total_s: Seconds = 60.0
    """Seconds allowed for one attempt, including redirects and the whole body."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Attempts for an image, if an error is temporary: a timeout, a lost connection, or status 408,
    425, 429 or 5xx."""
    backoff_s: Seconds = 2.0
    """Seconds to wait before the second attempt; doubled before each further attempt."""
    max_wait_s: Seconds = 300.0
    """Longest wait in seconds. If the pauses that a host asks for (Retry-After) add up to more,
    less a second for each row that it settles, the rest of its rows is rejected."""
    give_up_after: Annotated[int, Field(ge=0)] = 50
    """Consecutive attempts with temporary errors after which the remaining rows of a host are
    rejected; 0 never gives up on a host."""
    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects that are followed for one request."""
    max_mb: Annotated[float, Field(gt=0, le=64)] = 16.0
    """Size of the largest image in MiB."""
    allow_loopback: bool = False
    """Allow requests to this machine itself, for tests. Other private addresses are always
    rejected."""

    @property
    def max_bytes(self) -> int:
        """Return the size of the largest image in bytes."""
        return int(self.max_mb * 2**20)
