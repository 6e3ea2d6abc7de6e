"""What a server takes: sizes, counts and times."""

from dataclasses import dataclass

MIB = 2**20
PICTURES = 32
"""Most pictures, texts or pairs of a request."""
INPUTS = 2048
"""Most texts and pictures of a request of OpenAI's clients; they wait by 32."""
TEXT = 2000
"""Most characters of a text."""
LABELS = 100
"""Most classes of zero-shot classification."""
TEMPLATES = 8
"""Most templates of its prompts."""
BOXES = 100
"""Most proposed boxes of a picture."""
SIDE = 65_535
"""Longest side of a picture, in pixels, as of a JPEG."""
BEST = 100
"""Most results of a search, and most pictures that it re-ranks."""
INDEXES = 100
"""Most indexes of a server."""


@dataclass(frozen=True)
class Limits:
    """Bounds of requests and of what is held for them.

    Attributes:
        body: most bytes of a body.
        json: most bytes of a JSON body; a parsed one takes many times as much.
        all_bodies: most bytes of all bodies that are held at once.
        pixels: most pixels of a picture, by its header.
        decode: seconds that a picture is decoded, after which its decoder counts as held up.
        requests: most requests that are worked on at once.
        connections: most open connections.
        queue: most items that wait for one kind of computation.
        batch: most items that are computed at once.
        wait: seconds that an item may wait for others to share its batch, under load.
        header_seconds: for a request's headers to arrive.
        body_seconds: for its body.
        seconds: for its answer, once the body is there.
        grace: for accepted work to finish when the server is told to stop.
        cache: bytes of image states kept for re-ranking.
        indexes: bytes of indexes that are kept in memory, from which clients add no more.
    """

    body: int = 16 * MIB
    json: int = MIB
    all_bodies: int = 256 * MIB
    pixels: int = 2**24
    decode: float = 5
    requests: int = 128
    connections: int = 1000
    queue: int = 256
    batch: int = 8
    wait: float = 0.004
    header_seconds: float = 10
    body_seconds: float = 30
    seconds: float = 30
    grace: float = 30
    cache: int = 256 * MIB
    indexes: int = 512 * MIB
