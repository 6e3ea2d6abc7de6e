"""Options of a server: exports, access, and limits of sizes, counts and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
# Maximum numbers in a request, unless stated otherwise:
IMAGES = 32  # images, texts or pairs
INPUTS = 2048  # texts and images of OpenAI's clients, which are computed in groups of 32
TEXT = 2000  # characters of a text
LABELS = 100  # classes of a zero-shot classification
TEMPLATES = 8  # prompt templates of a zero-shot classification
BOXES = 100  # proposed boxes for an image
SIDE = 65_535  # pixels of an image's longest side, as in a JPEG
BEST = 100  # results of a search, and images that it re-ranks
INDEXES = 100  # indexes of a server


@dataclass(frozen=True)
class Limits:
    """Limits of requests and of the memory held for them.

    Attributes:
        body: maximum bytes of a body.
        json: maximum bytes of a JSON body; parsing takes many times as much memory.
        all_bodies: maximum bytes of all bodies held at the same time.
        pixels: maximum pixels of an image, as its header gives them.
        requests: maximum number of concurrent requests.
        connections: maximum number of open connections.
        queue: maximum number of items that wait for one kind of computation.
        batch: maximum number of items computed together.
        wait: maximum seconds that an item waits for a fuller batch, under load.
        body_seconds: seconds for a request's body to arrive.
        seconds: seconds for the answer, from the arrival of the body.
        grace: seconds to finish accepted requests after a stop signal.
        cache: bytes of image states cached for re-ranking.
        indexes: bytes of indexes in memory; above it, clients cannot add images.
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
    """Options of a server. The command ``albef serve`` describes them.

    Attributes:
        hosts: ``--host-name``; further host names that need no token.
        origins: ``--origin``; sites whose pages may send requests from a browser.
        indexes: folder of the image indexes; None keeps them in memory.
        refresh: words of the command that runs before each check of the folders.
        tokens: tokens for :func:`albef.serving.middleware.access.parse_token`; if empty, only
            clients on this machine are answered.
        expect: digests of the only manifests that may be loaded; if empty, any export is loaded.
        providers: providers of ONNX Runtime in order of preference; None uses what works.
        precision: precision of the weights; None uses the first of each export.
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
