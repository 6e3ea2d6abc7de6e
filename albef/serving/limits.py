"""What a server is started with: exports, who may ask, and bounds of sizes, counts and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        requests: most requests that are worked on at once.
        connections: most open connections.
        queue: most items that wait for one kind of computation.
        batch: most items that are computed at once.
        wait: seconds that an item may wait for others to share its batch, under load.
        body_seconds: for a request's body to arrive.
        seconds: for its answer, once the body is there.
        grace: for accepted work to finish when the server is told to stop.
        cache: bytes of image states kept for re-ranking.
        indexes: bytes of indexes that are kept in memory, from which clients add no more.
    """

    body: int = 16 * MIB
    json: int = MIB
    all_bodies: int = 256 * MIB
    pixels: int = 2**24
    requests: int = 128
    connections: int = 1000
    queue: int = 256
    batch: int = 8
    wait: float = 0.004
    body_seconds: float = 30
    seconds: float = 30
    grace: float = 30
    cache: int = 256 * MIB
    indexes: int = 512 * MIB


@dataclass(frozen=True)
class Options:
    """What a server serves, to whom, and how.

    Attributes:
        exports: folders; of those that have a call the first one answers it.
        limits: of sizes and times.
        tokens: of clients, as :func:`albef.serving.middleware.access.parse_token` reads them;
            without any, only those on this machine are answered.
        hosts: further names under which the server may be asked without a token.
        origins: whose pages may ask from a browser, as ``https://example.org``.
        indexes: folder that keeps indexes of pictures; None keeps them in memory.
        gallery: folder of pictures that the index of this name follows.
        follow: seconds after which it is looked whether a folder, or what a link leads to, has
            another export, to be served in its place; 0 never looks.
        refresh: a command that is run before each look, as one that fetches.
        expect: digests of manifests, of which no other is loaded; none takes any.
        workers: computations at a time.
        threads: of a computation; 0 takes all cores.
        providers: of ONNX Runtime, first choice first; None takes what works here.
        precision: of the weights; None takes each export's first.
        min_probability: of the best answer or class; where none has it, none is given.
    """

    exports: Sequence[Path]
    limits: Limits = Limits()
    tokens: Sequence[str] = ()
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    indexes: Path | None = None
    gallery: Path | None = None
    follow: float = 0
    refresh: Sequence[str] = ()
    expect: Sequence[str] = ()
    workers: int = 1
    threads: int = 0
    providers: Sequence[str] | None = None
    precision: str | None = None
    min_probability: float = 0
