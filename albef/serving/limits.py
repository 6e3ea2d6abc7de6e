"""Options of a server: exports, access, and limits of sizes, counts and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from albef.data.image_formats import FORMATS

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
RARE = ("BMP", "TIFF")  # formats of images that a server does not decode, because they are slow


@dataclass(frozen=True)
class Limits:
    """Limits of requests, and of the memory held for them; times are in seconds."""

    body: int = 16 * MIB  # bytes of a body
    json: int = MIB  # bytes of a JSON body; parsing takes many times as much memory
    all_bodies: int = 256 * MIB  # bytes of all bodies announced or held at the same time
    pixels: int = 2**24  # pixels of an image, as its header gives them
    formats: tuple[str, ...] = tuple(name for name in FORMATS if name not in RARE)
    requests: int = 128  # concurrent requests
    clients: int = 1  # tokens
    connections: int = 1000  # open connections
    queue: int = 256  # items that wait for one kind of computation
    batch: int = 8  # items computed together
    workers: int = 1  # concurrent computations of each export
    stragglers: float = 0.1  # share of a batch's time that the next one waits for a fuller batch
    body_seconds: float = 30  # time for a request's body to arrive
    seconds: float = 30  # time for the answer, from the arrival of the body
    grace: float = 30  # time to finish accepted requests after a stop signal
    cache: int = 256 * MIB  # bytes of image states cached for re-ranking
    indexes: int = 512 * MIB  # bytes of indexes in memory; above it, clients cannot add images

    def described(self) -> dict[str, int | float]:
        """Return the limits of a request, as ``GET /v1/model`` names them."""
        return {
            "body_bytes": self.body,
            "pixels": self.pixels,
            "images": IMAGES,
            "text": TEXT,
            "boxes": BOXES,
            "best": BEST,
            "seconds": self.seconds,
        }

    def share(self, total: int, least: int = 1) -> int:
        """Return how much of a limit one client can take: half of it, if there are several."""
        return total if self.clients == 1 else max(least, total // 2)


@dataclass(frozen=True)
class Options:
    """Options of a server; see ``albef serve --help``."""

    exports: Sequence[Path]
    limits: Limits = Limits()
    tokens: Sequence[str] = ()  # without tokens, only clients on this machine are answered
    hosts: Sequence[str] = ()  # --host-name
    origins: Sequence[str] = ()  # --origin
    proxies: Sequence[str] = ()  # --proxy: addresses or networks whose X-Forwarded-For is believed
    indexes: Path | None = None  # None keeps indexes in memory
    gallery: Path | None = None
    follow: float = 0  # seconds between two checks of the folders; 0 never checks
    refresh: Sequence[str] = ()  # words of a command
    expect: Sequence[str] = ()  # empty: any export is loaded
    threads: int = 0  # 0 uses all cores
    providers: Sequence[str] | None = None  # None uses what works
    precision: str | None = None  # None uses the first of each export
    min_probability: float = 0
