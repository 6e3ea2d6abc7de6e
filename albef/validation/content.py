"""What there is to show of a profile and of drift, from the files of a validation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("train", "evaluation")
"""The training split, and all others together."""
_WORDS = 24  # of the vocabulary, shown


@dataclass(frozen=True)
class Histogram:
    """Shares by bin, of the rows that are trained on and of those that are evaluated on.

    Attributes:
        what: what is counted, in words.
        edges: of the bins that are shown: the first to the last that holds anything.
        shares: by part, one for each bin.
        middle: by part, the median.
    """

    what: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    middle: Mapping[str, float]


@dataclass(frozen=True)
class Listed:
    """The most frequent words, or labels.

    Attributes:
        what: what is counted, in words.
        shares: by part, how often each is said, the most frequent of the first part first.
        different: by part, how many there are.
    """

    what: str
    shares: Mapping[str, Mapping[str, float]]
    different: Mapping[str, int]

    def rows(self) -> list[list[str]]:
        """A row for each: its name, and its share in each part."""
        names = next(iter(self.shares.values()))
        return [
            [name, *(f"{100 * shares[name]:.2f} %" for shares in self.shares.values())]
            for name in names
        ]


@dataclass(frozen=True)
class Drifted:
    """A row of a table of drift: one distribution against one reference.

    Attributes:
        of, part, reference, name: as :class:`albef.validation.result.DriftResult` has them.
        divergence, shift: how far, in words; "" where it is not measured.
        level: the worse of both: ``met``, ``warned`` or ``stopped``.
    """

    of: str
    part: str
    reference: str
    name: str
    divergence: str
    shift: str
    level: str


def parts(profile: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a profile, what is trained on first; JSON does not keep their order."""
    return ((part, profile["parts"][part]) for part in PARTS if part in profile["parts"])


def histograms(profile: Mapping[str, Any]) -> tuple[Histogram, ...]:
    """The histograms of a profile, those of both parts together."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part, own in parts(profile):
        for numbers in own["numbers"]:
            found.setdefault(numbers["what"], {})[part] = numbers
    return tuple(_histogram(what, by) for what, by in found.items())


def _histogram(what: str, by: Mapping[str, Mapping[str, Any]]) -> Histogram:
    first, *_ = by.values()
    filled = [any(own["counts"][i] for own in by.values()) for i in range(len(first["counts"]))]
    start, end = filled.index(True), len(filled) - filled[::-1].index(True)
    return Histogram(
        what,
        tuple(first["bins"][start : end + 1]),
        {
            part: tuple(count / sum(own["counts"]) for count in own["counts"][start:end])
            for part, own in by.items()
        },
        {part: own["quantiles"][len(own["quantiles"]) // 2] for part, own in by.items()},
    )


def listed(profile: Mapping[str, Any]) -> tuple[Listed, ...]:
    """The most frequent words, and labels or answers."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for part, own in parts(profile):
        for category in own["categories"]:
            found.setdefault(category["what"], {})[part] = category
    shown = []
    for what, by in found.items():
        counts = {
            part: dict(zip(own["values"], own["counts"], strict=True)) for part, own in by.items()
        }
        first, *_ = counts.values()
        names = [name for name in first if name != "(other)"][:_WORDS]
        shares = {
            part: {name: own.get(name, 0) / sum(own.values()) for name in names}
            for part, own in counts.items()
        }
        different = {part: int(own["different"]) for part, own in by.items()}
        shown.append(Listed(what, shares, different))
    return tuple(shown)


def drifted(result: Mapping[str, Any]) -> tuple[Drifted, ...]:
    """How far each distribution moved, from the JSON of a validation's result."""
    rows: dict[tuple[str, str, str, str], dict[str, Mapping[str, Any]]] = {}
    for moved in result.get("moved", ()):
        key = (moved["reference"], moved["name"], moved["part"], moved["of"])
        rows.setdefault(key, {})[moved["measure"]] = moved
    levels = ("met", "warned", "stopped")
    return tuple(
        Drifted(
            of,
            part,
            reference,
            name,
            _far(by.get("divergence"), " nats"),
            _far(by.get("shift"), " of its range"),
            max((moved["level"] for moved in by.values()), key=levels.index),
        )
        for (reference, name, part, of), by in rows.items()
    )


def _far(moved: Mapping[str, Any] | None, unit: str) -> str:
    if moved is None:
        return ""
    value = moved["value"]
    return "without bound" if value is None else f"{value:.3f}{unit}"
