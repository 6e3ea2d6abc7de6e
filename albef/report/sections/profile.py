"""The profile of a dataset from validation: histograms, and frequent words and labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from albef.report.figures import Chart, Histogram

_PARTS = ("train", "evaluation")  # fixed here, since JSON does not keep the order
_SHOWN = 12
_OTHER = "(other)"
"""Name for all words or labels that are not listed."""


@dataclass(frozen=True)
class Tally:
    """The most frequent words or labels, each with its share in each part."""

    title: str
    different: Mapping[str, int]
    """Number of different ones in each part."""
    rows: Mapping[str, Mapping[str, float]]


def histograms(profile: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield a histogram of each numeric column with several bins, without empty outer bins."""
    for what, parts in _by_part(profile, "numbers").items():
        columns = zip(*(part["counts"] for part in parts.values()), strict=True)
        filled = [i for i, counts in enumerate(columns) if any(counts)]
        if len(filled) == 1:
            continue
        start, end = filled[0], filled[-1] + 1
        shares = {
            name: [count / sum(part["counts"]) for count in part["counts"][start:end]]
            for name, part in parts.items()
        }
        edges = next(iter(parts.values()))["bins"][start : end + 1]
        middle = [part["quantiles"][len(part["quantiles"]) // 2] for part in parts.values()]
        note = f"median {', '.join(map('{:.4g}'.format, middle))}"
        yield Chart(what.capitalize(), note, histogram=Histogram(edges, shares))


def tallies(profile: Mapping[str, Any]) -> Iterator[Tally]:
    """Yield the most frequent words, and labels or answers, of the first part."""
    for what, parts in _by_part(profile, "categories").items():
        counts = {
            name: dict(zip(part["values"], part["counts"], strict=True))
            for name, part in parts.items()
        }
        listed = [word for word in next(iter(counts.values())) if word != _OTHER][:_SHOWN]
        rows = {
            word: {name: of.get(word, 0) / sum(of.values()) for name, of in counts.items()}
            for word in listed
        }
        different = {name: int(part["different"]) for name, part in parts.items()}
        yield Tally(what.capitalize(), different, rows)


def _by_part(profile: Mapping[str, Any], kind: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in (part for part in _PARTS if part in profile["parts"]):
        for counted in profile["parts"][name][kind]:
            found.setdefault(counted["what"], {})[name] = counted
    return found
