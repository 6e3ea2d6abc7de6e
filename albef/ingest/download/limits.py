"""How a download behaves towards servers, and what it takes from them."""

from typing import Annotated

from pydantic import Field

from albef.config import Section

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Limits(Section):
    """What bounds a download."""

    user_agent: Annotated[str, Field(min_length=3, max_length=200, pattern=r"^[\x20-\x7e]+$")]
    """Name told to every server. Say who asks and how to reach you."""
    connections: Annotated[int, Field(ge=1, le=4096)] = 64
    """Requests at once, over all hosts."""
    per_host: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests at once to one host."""
    connect_s: Seconds = 10.0
    """Seconds for a connection to be made."""
    read_s: Seconds = 15.0
    """Seconds without a byte after which an answer is given up."""
    total_s: Seconds = 60.0
    """Seconds of an attempt, with redirects and the whole body."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Attempts at what may pass: a timeout, a lost connection, status 408, 425, 429 or 5xx."""
    backoff_s: Seconds = 2.0
    """Seconds before the second attempt; they double each time."""
    max_wait_s: Seconds = 300.0
    """Longest wait; a server that asks for more (Retry-After) is not asked again."""
    give_up_after: Annotated[int, Field(ge=0)] = 50
    """Attempts in a row that a host leaves without any answer before its other rows are set aside;
    0 tries them all."""
    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects that are followed."""
    max_mb: Annotated[float, Field(gt=0, le=64)] = 16.0
    """Largest picture in MiB."""
    allow_loopback: bool = False
    """Whether this machine itself may be asked, which is for tests: other addresses that are not
    public are refused always."""

    @property
    def max_bytes(self) -> int:
        """Largest picture in bytes."""
        return int(self.max_mb * 2**20)
