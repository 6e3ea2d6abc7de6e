"""The profile of a data set, as validation counted it: histograms, and the most frequent words and
labels of its training split beside the evaluation splits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from albef.report.figures import Chart, Histogram

_PARTS = ("train", "evaluation")  # in this order: JSON has lost it
_SHOWN = 12
_OTHER = "(other)"
"""What stands for all that is not listed."""


@dataclass(frozen=True)
class Tally:
    """The most frequent words or labels, each with its share of what is said in each part."""

    title: str
    different: Mapping[str, int]
    """How many there are in each part."""
    rows: Mapping[str, Mapping[str, float]]


def histograms(profile: Mapping[str, Any]) -> Iterator[Chart]:
    """Of what is measured, from the first bin to the last that holds anything; of what is the same
    everywhere there is none."""
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
    """The most frequent words, and labels or answers, of the first part."""
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
    """What is counted, and its counts by part."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in (part for part in _PARTS if part in profile["parts"]):
        for counted in profile["parts"][name][kind]:
            found.setdefault(counted["what"], {})[name] = counted
    return found
